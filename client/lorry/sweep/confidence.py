"""How sure a figure is: intervals for quantiles, for rates over time, and for ratios.

All are 95 % intervals. They take samples for independent; the requests of one point share a batch
and are not quite that, so read them as the least that one must allow for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from lorry.distribution import format_seconds, quantile, samples_needed

CONFIDENCE = 0.95
NUM_SLICES = 10
# two-sided 95 % quantiles: Student's t with NUM_SLICES - 1 degrees of freedom, and the normal one
_T_SLICES = 2.262
_Z = 1.960


class Estimate(msgspec.Struct, frozen=True):
    """A value and the interval it is in; `low` and `high` are None where there is no telling."""

    value: float
    low: float | None = None
    high: float | None = None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of `n` requests, in seconds; a percentile that fewer than ten lie beyond is None."""

    n: int
    mean: float | None = None
    p50: Estimate | None = None
    p95: Estimate | None = None
    p99: Estimate | None = None


def latency(values: Sequence[float]) -> Latency:
    """Percentiles with their intervals, of values in any order."""
    if not values:
        return Latency(n=0)
    ordered = sorted(values)
    return Latency(
        n=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=_shown(ordered, 0.50),
        p95=_shown(ordered, 0.95),
        p99=_shown(ordered, 0.99),
    )


def quantile_estimate(ordered: Sequence[float], q: float) -> Estimate:
    """The q-quantile between two order statistics, whatever the distribution.

    The number of values below the true quantile is binomial, so the l-th and the u-th smallest
    value enclose it with at least the probability P(l <= B < u): David and Nagaraja, "Order
    Statistics" (3rd ed., 2003), 7.1. `ordered` ascends and is not empty.
    """
    lower, upper = quantile_ranks(len(ordered), q)
    return Estimate(
        quantile(ordered, q),
        None if lower is None else ordered[lower - 1],
        None if upper is None else ordered[upper - 1],
    )


def quantile_ranks(n: int, q: float) -> tuple[int | None, int | None]:
    """The ranks, from 1, that enclose the q-quantile of `n` values; None beyond the sample."""
    tail = (1 - CONFIDENCE) / 2
    lower: int | None = None
    upper: int | None = None
    below = 0.0  # P(B <= rank - 1)
    for rank in range(1, n + 1):
        below += _binomial(n, rank - 1, q)
        if below <= tail:
            lower = rank
        if below >= 1 - tail:
            upper = rank
            break
    return lower, upper


def rate_estimate(slices: Sequence[float]) -> Estimate:
    """The mean rate of equal slices of time, by the method of batch means.

    Law, "Simulation Modeling and Analysis" (5th ed., 2015), 9.5.3.
    """
    mean = math.fsum(slices) / len(slices)
    if len(slices) != NUM_SLICES:
        return Estimate(mean)
    half = _T_SLICES * standard_error(slices)
    return Estimate(mean, max(0.0, mean - half), mean + half)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of at least two values."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def mean_ratio(pairs: Sequence[tuple[Estimate, Estimate]]) -> Estimate | None:
    """The geometric mean of second / first over pairs of independent estimates, with its interval.

    The logarithm of an estimate is taken for normal, with a deviation as wide as its interval
    says. None without pairs of positive values.
    """
    pairs = [(a, b) for a, b in pairs if a.value > 0 and b.value > 0]
    if not pairs:
        return None
    log_ratio = math.fsum(math.log(b.value / a.value) for a, b in pairs) / len(pairs)
    deviations = [_log_deviation(estimate) for pair in pairs for estimate in pair]
    known = [deviation for deviation in deviations if deviation is not None]
    if len(known) < len(deviations):
        return Estimate(math.exp(log_ratio))
    half = _Z * math.sqrt(math.fsum(d * d for d in known)) / len(pairs)
    return Estimate(math.exp(log_ratio), math.exp(log_ratio - half), math.exp(log_ratio + half))


def format_estimate(estimate: Estimate | None) -> str:
    """Seconds with their interval, such as `41 ms (39..44)`; "n/a" for None."""
    if estimate is None:
        return "n/a"
    shown = format_seconds(estimate.value)
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} ({format_seconds(estimate.low)} to {format_seconds(estimate.high)})"


def _shown(ordered: Sequence[float], q: float) -> Estimate | None:
    return quantile_estimate(ordered, q) if len(ordered) >= samples_needed(q) else None


def _binomial(n: int, k: int, q: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(q) + (n - k) * math.log1p(-q))


def _log_deviation(estimate: Estimate) -> float | None:
    if estimate.low is None or estimate.high is None or estimate.low <= 0:
        return None
    return (math.log(estimate.high) - math.log(estimate.low)) / (2 * _Z)
