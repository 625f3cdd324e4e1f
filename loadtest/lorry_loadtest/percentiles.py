"""A sample in a few numbers: exact percentiles with their intervals, where the sample allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from lorry_loadtest.statistics.censored import censored_quantile
from lorry_loadtest.statistics.intervals import Interval, quantile_interval
from lorry_loadtest.statistics.quantiles import quantile, samples_needed

SHOWN = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """A percentile is None when `n` is under its floor.

    `intervals` holds a 95 % order-statistic interval of each percentile that is shown, where what
    was censored lies above its upper end. Of `n`
    values `num_censored` are only known to be larger than what was seen when they were given up;
    a percentile that lies among those is in `above` instead, with the largest value seen.
    """

    n: int
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    num_censored: int = 0
    intervals: dict[str, Interval] = {}
    above: dict[str, float] = {}


def describe(values: Sequence[float], censored: Sequence[float] = ()) -> Distribution:
    """The distribution of `values`, in any order and of any number.

    With censored values percentiles are Kaplan and Meier's; mean, min and max stay those of
    `values`, so a mean is then too low.
    """
    if not values and not censored:
        return Distribution(n=0)
    n = len(values) + len(censored)
    shown = {name: q for name, q in SHOWN.items() if n >= samples_needed(q)}
    ordered = sorted(values)
    intervals: dict[str, Interval] = {}
    above: dict[str, float] = {}
    found: dict[str, float | None]
    if censored:
        found = {name: censored_quantile(values, censored, q) for name, q in shown.items()}
        seen = max(*ordered[-1:], *censored, 0.0)
        above = {name: seen for name, value in found.items() if value is None}
    else:
        found = {name: quantile(ordered, q) for name, q in shown.items()}
    # the order of values is known only up to the first that was given up
    ranks = [*ordered, *(math.inf for _ in censored)]
    known_to = min(censored, default=math.inf)
    for name, q in shown.items():
        interval = quantile_interval(ranks, q)
        if interval is not None and interval.high <= known_to and interval.high < math.inf:
            intervals[name] = interval
    return Distribution(
        n=n,
        mean=math.fsum(ordered) / len(ordered) if ordered else None,
        min=ordered[0] if ordered else None,
        max=ordered[-1] if ordered else None,
        p50=found.get("p50"),
        p90=found.get("p90"),
        p95=found.get("p95"),
        p99=found.get("p99"),
        num_censored=len(censored),
        intervals=intervals,
        above=above,
    )
