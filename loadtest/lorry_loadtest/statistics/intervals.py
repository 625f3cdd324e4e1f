"""Confidence intervals: of a quantile, of a share, of a mean of values that depend on each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec

from lorry_loadtest.statistics.binomial import binomial_quantile

CONFIDENCE = 0.95
_NUM_BATCHES = 20


class Interval(msgspec.Struct, frozen=True):
    """Both ends belong to it."""

    low: float
    high: float


def quantile_interval(
    ordered: Sequence[float], q: float, *, confidence: float = CONFIDENCE
) -> Interval | None:
    """Two order statistics that enclose the true q-quantile with at least `confidence`.

    `ordered` ascends. None when the sample is too small for such a pair. The method assumes
    independent values and no distribution (David and Nagaraja, Order Statistics, 7.1).
    """
    n = len(ordered)
    if n == 0:
        return None
    tail = (1.0 - confidence) / 2.0
    low = binomial_quantile(n, q, tail)
    high = binomial_quantile(n, q, 1.0 - tail) + 1
    if low < 1 or high > n:
        return None
    return Interval(ordered[low - 1], ordered[high - 1])


def share_interval(count: int, n: int, *, confidence: float = CONFIDENCE) -> Interval | None:
    """Wilson's score interval of a share; None without samples."""
    if n == 0:
        return None
    z = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    share = count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def batch_means_interval(
    values: Sequence[float], *, confidence: float = CONFIDENCE
) -> Interval | None:
    """Of the mean of a time series, by the means of twenty consecutive batches.

    Neighbouring values may depend on each other, as tokens per second do. None with fewer than
    two values in a batch. Student's t with 19 degrees of freedom (Law, Simulation Modeling, 9.5.3).
    """
    size = len(values) // _NUM_BATCHES
    if size < 2:
        return None
    means = [
        math.fsum(values[start : start + size]) / size
        for start in range(0, size * _NUM_BATCHES, size)
    ]
    mean = math.fsum(means) / _NUM_BATCHES
    variance = math.fsum((value - mean) ** 2 for value in means) / (_NUM_BATCHES - 1)
    half = _student_t(confidence) * math.sqrt(variance / _NUM_BATCHES)
    return Interval(mean - half, mean + half)


def _student_t(confidence: float) -> float:
    """The two-sided quantile for 19 degrees of freedom, by Hill's expansion of the normal one."""
    z = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    df = _NUM_BATCHES - 1
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / df + second / df**2 + third / df**3
