"""The exponential and what is made of it, as float32 operations in a stated order.

Libraries differ in the last bits of exp and tanh, and even one library between its vector lengths.
Here every line is one IEEE float32 operation for each element, never a fused multiply-add, so that
compiled code which follows it line by line has the same bits. The method is the reduction by
Cody and Waite (1980) to |r| <= ln(2) / 2 and the minimax polynomial of the Cephes library
(Moshier), which is within two units in the last place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.kernels.division import number_over, over_number

LOWEST, HIGHEST = -87.0, 88.0  # where 2^n and the result are normal numbers
LOG2_E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # n * LN2_HIGH is exact
POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
GELU_SLOPE, GELU_CUBIC = 0.7978845608, 0.044715


def exp(x: Tensor) -> Tensor:
    """e^x of float32, with x clamped to -87..88. NaN stays NaN."""
    x = x.clamp(LOWEST, HIGHEST)
    n = (x * LOG2_E).round_()  # half to even
    r = x.sub_(n * LN2_HIGH).sub_(n * LN2_LOW)
    p = r * POLYNOMIAL[0]
    for coefficient in POLYNOMIAL[1:-1]:
        p = p.add_(coefficient).mul_(r)
    p = p.add_(POLYNOMIAL[-1])
    y = p.mul_(r * r).add_(r).add_(1.0)
    power = ((n.to(torch.int32) + 127) << 23).view(torch.float32)  # 2^n by its bits
    return y.mul_(power)


def tanh(z: Tensor) -> Tensor:
    """`1 - 2 / (e^2z + 1)`."""
    return number_over(2.0, exp(z * 2.0).add_(1.0)).neg_().add_(1.0)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """`cap * tanh(x / cap)`: bounds of Gemma 2's scores and logits."""
    return tanh(over_number(x, cap)).mul_(cap)


def silu(x: Tensor) -> Tensor:
    """`x / (1 + e^-x)`."""
    return x / exp(-x).add_(1.0)


def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation of GELU by a tanh (Hendrycks and Gimpel, 2016)."""
    inner = (x * x).mul_(x).mul_(GELU_CUBIC).add_(x).mul_(GELU_SLOPE)
    return tanh(inner).add_(1.0).mul_(x * 0.5)
