"""Confidence of a ratio between two runs of the same requests, by resampling blocks of pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

from lorry_loadtest.statistics.quantiles import quantile

Value = TypeVar("Value")

NUM_RESAMPLES = 600


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
    a: Sequence[Value],
    b: Sequence[Value],
    statistic: Callable[[Sequence[Value]], float],
    *,
    series: Sequence[float],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> RatioEstimate:
    """The ratio of a statistic of `b` to that of `a`; `a[i]` and `b[i]` are of the same request.

    `series` is the difference of each pair, by which it is seen how far neighbours depend on each
    other.

    Both are in the order of time. Blocks of neighbours are drawn together, the same ones on both
    sides, so that neither what a request is like nor slow changes of a server widen or narrow the
    interval wrongly: the circular block bootstrap (Politis and Romano, 1992) with the block length
    of Politis and White (2004). At least two pairs, and a statistic over 0.
    """
    n = len(a)
    assert n == len(b) >= 2
    # twice the best length for the error's own error: too short makes it too small, and that
    # costs more than what too long costs
    block = max(1, min(2 * block_length(series), n // 10))
    rng = random.Random(seed)
    ratios = []
    num_blocks = math.ceil(n / block)
    twice_a, twice_b = [*a, *a], [*b, *b]
    for _ in range(num_resamples):
        drawn_a: list[Value] = []
        drawn_b: list[Value] = []
        for _ in range(num_blocks):
            start = rng.randrange(n)
            drawn_a += twice_a[start : start + block]
            drawn_b += twice_b[start : start + block]
        below = statistic(drawn_a[:n])
        if below > 0.0:
            ratios.append(statistic(drawn_b[:n]) / below)
    ratios.sort()
    logs = [math.log(ratio) for ratio in ratios if ratio > 0.0]
    mean = math.fsum(logs) / len(logs) if logs else 0.0
    variance = math.fsum((value - mean) ** 2 for value in logs) / max(1, len(logs) - 1)
    return RatioEstimate(
        ratio=statistic(b) / statistic(a),
        resampled=tuple(ratios),
        error=math.sqrt(variance),
        block=block,
    )


def differences(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """b - a, pair by pair."""
    return [second - first for first, second in zip(a, b, strict=True)]


def block_length(values: Sequence[float]) -> int:
    """How many neighbours to keep together: the automatic choice of Politis and White (2004)."""
    n = len(values)
    mean = math.fsum(values) / n
    centred = [value - mean for value in values]
    variance = math.fsum(value * value for value in centred) / n
    if variance <= 0.0 or n < 16:
        return 1
    run_length = max(5, math.ceil(math.sqrt(math.log10(n))))
    most = min(n // 4, math.ceil(math.sqrt(n)) + run_length)
    correlations = [
        math.fsum(centred[i] * centred[i + lag] for i in range(n - lag)) / n / variance
        for lag in range(most + 1)
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
