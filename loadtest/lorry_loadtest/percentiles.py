"""Exact percentiles from raw samples, shown only where there are enough of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


def quantile(sorted_values: Sequence[float], q: float) -> float:
    """The q-quantile with linear interpolation: type 7 of Hyndman and Fan (1996).

    `sorted_values` is ascending and not empty; q lies in 0..1.
    """
    assert sorted_values
    position = (len(sorted_values) - 1) * q
    below = math.floor(position)
    above = min(below + 1, len(sorted_values) - 1)
    return sorted_values[below] + (sorted_values[above] - sorted_values[below]) * (position - below)


def samples_needed(q: float) -> int:
    """The fewest samples with which the q-quantile is shown: ten of them lie beyond it."""
    return math.ceil(round(10 / (1 - q), 6))


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """A sample in a few numbers. A percentile is None when `n` is under its floor."""

    n: int
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


def describe(values: Sequence[float]) -> Distribution:
    """The distribution of `values`, in any order and of any number."""
    if not values:
        return Distribution(n=0)
    ordered = sorted(values)

    def shown(q: float) -> float | None:
        return quantile(ordered, q) if len(ordered) >= samples_needed(q) else None

    return Distribution(
        n=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        min=ordered[0],
        max=ordered[-1],
        p50=shown(0.50),
        p90=shown(0.90),
        p95=shown(0.95),
        p99=shown(0.99),
    )
