"""Whether a sample came from the distribution that it should have come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

_SERIES_TERMS = 500


def ks_distance(values: Sequence[float], cdf: Callable[[float], float]) -> float:
    """The largest distance between the sample's distribution and `cdf` (Kolmogorov, 1933)."""
    ordered = sorted(values)
    n = len(ordered)
    return max(
        (
            max((index + 1) / n - cdf(value), cdf(value) - index / n)
            for index, value in enumerate(ordered)
        ),
        default=0.0,
    )


def ks_p_value(distance: float, n: int) -> float:
    """The chance of such a distance or a larger one, by Stephens' (1970) asymptotic form."""
    if n == 0 or distance <= 0.0:
        return 1.0
    root = math.sqrt(n)
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.3:
        return 1.0  # the alternating series does not converge there, and the value is 1
    total = math.fsum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * total))


def chi_square_p_value(observed: Sequence[float], expected: Sequence[float]) -> float:
    """The chance of counts as far from `expected` as `observed` or farther (Pearson, 1900).

    Every expected count is positive, and both sum to the same.
    """
    statistic = math.fsum(
        (count - wanted) ** 2 / wanted for count, wanted in zip(observed, expected, strict=True)
    )
    freedom = len(observed) - 1
    if freedom < 1:
        return 1.0
    return upper_gamma(freedom / 2, statistic / 2)


def gamma_cdf(x: float, *, shape: float, scale: float) -> float:
    """P(X <= x) of a gamma distribution; `shape` 1 is the exponential one."""
    return 0.0 if x <= 0 else 1.0 - upper_gamma(shape, x / scale)


def upper_gamma(a: float, x: float) -> float:
    """The regularised upper incomplete gamma function Q(a, x), for a > 0 and x >= 0.

    By its series below a + 1 and by Lentz's continued fraction above (Numerical Recipes, 6.2).
    """
    if x <= 0.0:
        return 1.0
    factor = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1.0:
        term = total = 1.0 / a
        for n in range(1, _SERIES_TERMS):
            term *= x / (a + n)
            total += term
            if term < total * 1e-15:
                break
        return max(0.0, 1.0 - total * factor)
    tiny = 1e-300
    b = x + 1.0 - a
    c, d = 1.0 / tiny, 1.0 / b
    fraction = d
    for n in range(1, _SERIES_TERMS):
        step = -n * (n - a)
        b += 2.0
        d = 1.0 / (step * d + b or tiny)
        c = b + step / c or tiny
        fraction *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return min(1.0, factor * fraction)
