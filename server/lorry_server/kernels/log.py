"""The natural logarithm, as float64 operations in a stated order.

As with `kernels.exp`, libraries differ in the last bits; this has the same ones everywhere. x is
2^k * m with m between sqrt(1/2) and sqrt(2), and log(m) is twice the series of the inverse
hyperbolic tangent of s = (m - 1) / (m + 1), whose terms fall at least by 33 each. It is within two
units in the last place.
"""

from __future__ import annotations

import torch
from torch import Tensor

SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
LN2_HIGH, LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # k * LN2_HIGH is exact
SERIES = tuple(1.0 / degree for degree in range(23, 1, -2))  # 1/23, 1/21 ... 1/3


def log(x: Tensor) -> Tensor:
    """log(x) of float64, for normal positive x."""
    bits = x.view(torch.int64)
    k = (bits - SQRT_HALF_BITS) >> 52
    m = (bits - (k << 52)).view(torch.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = torch.full_like(z, SERIES[0])
    for coefficient in SERIES[1:]:
        p = p.mul_(z).add_(coefficient)
    k_float = k.double()
    twice = s + s
    tail = (twice * z).mul_(p).add_(k_float * LN2_LOW)
    return tail.add_(twice).add_(k_float * LN2_HIGH)
