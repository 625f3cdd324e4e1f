"""Confidence of a ratio between two runs of the same requests, by resampling blocks of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lorry_loadtest.statistics.quantiles import quantile

Values = npt.NDArray[np.float64]

NUM_RESAMPLES = 600
# With so many pairs an interval is far narrower than any limit, and its ends need not be as exact.
MANY_PAIRS = 20_000
NUM_RESAMPLES_OF_MANY = 300


@dataclass(frozen=True, slots=True)
class RatioEstimate:
    """B over A. `resampled` are the ratios of the resamples, ascending; `error` is their standard
    deviation on the log scale."""

    ratio: float
    resampled: tuple[float, ...]
    error: float
    block: int

    def bound(self, probability: float) -> float:
        """The ratio below which this share of the resamples lies."""
        return quantile(self.resampled, probability)

    def power(self, limit: float, *, confidence: float) -> float:
        """The chance that a run like this one shows a ratio under `limit` when the truth is 1.

        `limit` over 1: the upper bound is to lie below it; under 1: the lower bound above it.
        """
        if self.error == 0.0:
            return 1.0
        z = NormalDist().inv_cdf(confidence)
        return NormalDist().cdf(abs(math.log(limit)) / self.error - z)


def paired_ratio(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    statistic: Callable[[Values], float],
    *,
    series: npt.ArrayLike,
    seed: int = 0,
) -> RatioEstimate:
    """The ratio of a statistic of `b` to that of `a`; `a[i]` and `b[i]` are of the same request.

    Each is one number per request, or a row of several. `series` is the difference of each pair, by
    which it is seen how far neighbours depend on each other.

    Both are in the order of time. Blocks of neighbours are drawn together, the same ones on both
    sides, so that neither what a request is like nor slow changes of a server widen or narrow the
    interval wrongly: the circular block bootstrap (Politis and Romano, 1992) with the block length
    of Politis and White (2004). At least two pairs, and a statistic over 0.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = len(first)
    assert n == len(second) >= 2
    # twice the best length for the error's own error: too short makes it too small, and that
    # costs more than what too long costs
    block = max(1, min(2 * block_length(series), n // 10))
    rng = np.random.default_rng(seed)
    num_blocks = math.ceil(n / block)
    # the end is joined to the beginning
    circle_a, circle_b = (np.concatenate([side, side[: block - 1]]) for side in (first, second))
    ratios = []
    for _ in range(NUM_RESAMPLES if n <= MANY_PAIRS else NUM_RESAMPLES_OF_MANY):
        starts = rng.integers(0, n, num_blocks)
        places = (starts[:, None] + np.arange(block)).reshape(-1)[:n]
        below = statistic(circle_a.take(places, axis=0))
        if below > 0.0:
            ratios.append(statistic(circle_b.take(places, axis=0)) / below)
    ratios.sort()
    logs = [math.log(ratio) for ratio in ratios if ratio > 0.0]
    mean = math.fsum(logs) / len(logs) if logs else 0.0
    variance = math.fsum((value - mean) ** 2 for value in logs) / max(1, len(logs) - 1)
    return RatioEstimate(
        ratio=statistic(second) / statistic(first),
        resampled=tuple(ratios),
        error=math.sqrt(variance),
        block=block,
    )


def block_length(values: npt.ArrayLike) -> int:
    """How many neighbours to keep together: the automatic choice of Politis and White (2004)."""
    series = np.asarray(values, dtype=np.float64)
    n = len(series)
    centred = series - series.mean()
    variance = float(centred @ centred) / n
    if variance <= 0.0 or n < 16:
        return 1
    run_length = max(5, math.ceil(math.sqrt(math.log10(n))))
    most = min(n // 4, math.ceil(math.sqrt(n)) + run_length)
    correlations = [
        float(centred[: n - lag] @ centred[lag:]) / n / variance for lag in range(most + 1)
    ]
    bound = 2.0 * math.sqrt(math.log10(n) / n)
    quiet = next(
        (
            lag
            for lag in range(1, most - run_length + 1)
            if all(abs(c) < bound for c in correlations[lag : lag + run_length])
        ),
        most,
    )
    window = min(2 * (quiet - 1), most) if quiet > 1 else 0
    if window == 0:
        return 1
    weighted = total = 0.0
    for lag in range(-window, window + 1):
        taper = min(1.0, 2.0 * (1.0 - abs(lag) / window))
        total += taper * correlations[abs(lag)]
        weighted += taper * abs(lag) * correlations[abs(lag)]
    if total <= 0.0:
        return 1
    best: float = (1.5 * (weighted / total) ** 2 * n) ** (1 / 3)
    return max(1, min(math.ceil(best), math.ceil(min(3 * math.sqrt(n), n / 3))))
