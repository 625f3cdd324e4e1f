"""A sample in a few numbers: exact percentiles, shown only where there are enough samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile with linear interpolation: type 7 of Hyndman and Fan (1996).

    `ordered` ascends and is not empty; q lies in 0..1.
    """
    position = (len(ordered) - 1) * q
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def samples_needed(q: float) -> int:
    """The fewest samples with which the q-quantile is shown: ten of them lie beyond it."""
    return math.ceil(round(10 / (1 - q), 6))


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Of `n` values in seconds, unless said otherwise; a percentile below its floor is None."""

    n: int
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


def describe(values: Iterable[float | None]) -> Distribution:
    """The distribution of the values that are known."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return Distribution(n=0)

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


def format_seconds(value_s: float | None) -> str:
    """Three digits, in milliseconds below a second; "n/a" for None."""
    if value_s is None:
        return "n/a"
    if abs(value_s) >= 0.9995:
        return f"{_three_digits(value_s)} s"
    return f"{_three_digits(1000 * value_s)} ms"


def format_rate(value: float | None) -> str:
    """A rate per second, "n/a" for None."""
    if value is None:
        return "n/a"
    return _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
