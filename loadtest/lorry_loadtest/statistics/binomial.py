"""The binomial distribution by exact summation, for intervals that assume nothing else."""

from __future__ import annotations

import math

_STANDARD_DEVIATIONS = 12.0  # beyond them nothing is left that a double could show


def binomial_quantile(n: int, p: float, probability: float) -> int:
    """The smallest k with P(B <= k) >= probability, for B of n trials with chance p.

    `n` is at least 1, `p` and `probability` lie strictly between 0 and 1.
    """
    assert n >= 1
    assert 0.0 < p < 1.0
    assert 0.0 < probability < 1.0
    spread = _STANDARD_DEVIATIONS * math.sqrt(n * p * (1.0 - p)) + 2.0
    k = max(0, math.floor(n * p - spread))
    mass = math.exp(_log_mass(n, p, k))
    total = mass
    odds = p / (1.0 - p)
    while total < probability and k < n:
        if mass > 0.0:
            mass *= (n - k) / (k + 1) * odds
        else:
            mass = math.exp(_log_mass(n, p, k + 1))  # the tail was too thin for a double
        k += 1
        total += mass
    return k


def _log_mass(n: int, p: float, k: int) -> float:
    choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choices + k * math.log(p) + (n - k) * math.log1p(-p)
