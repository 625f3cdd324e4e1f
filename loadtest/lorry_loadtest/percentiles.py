"""A sample in a few numbers: exact percentiles with their intervals, where the sample allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from lorry_loadtest.statistics.intervals import Interval, quantile_interval
from lorry_loadtest.statistics.quantiles import quantile, samples_needed

SHOWN = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """A percentile is None when `n` is under its floor.

    `intervals` holds a 95 % order-statistic interval for each percentile that is shown.
    """

    n: int
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    intervals: dict[str, Interval] = {}


def describe(values: Sequence[float]) -> Distribution:
    """The distribution of `values`, in any order and of any number."""
    if not values:
        return Distribution(n=0)
    ordered = sorted(values)
    shown = {name: q for name, q in SHOWN.items() if len(ordered) >= samples_needed(q)}
    return Distribution(
        n=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        min=ordered[0],
        max=ordered[-1],
        **{name: quantile(ordered, q) for name, q in shown.items()},
        intervals={
            name: interval
            for name, q in shown.items()
            if (interval := quantile_interval(ordered, q)) is not None
        },
    )
