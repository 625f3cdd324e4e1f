"""True divisions with a number on one side.

Torch computes `number / tensor` as `number * (1 / tensor)`, and on CUDA `tensor / number` as
`tensor * (1 / number)`; both round twice, and compiled code that divides would have other bits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def number_over(number: float, x: Tensor) -> Tensor:
    """`number / x`, rounded once."""
    return torch.full_like(x, number).div_(x)


def over_number(x: Tensor, number: float) -> Tensor:
    """`x / number`, rounded once."""
    return x / torch.full_like(x, number)
