"""Numbers as signed bytes with one scale for all that share it.

    x = s * xq,   xq in -127..127

Activations, keys, values and queries are all quantized in this way, to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.kernels.division import number_over, over_number

LARGEST = 127
SMALLEST_MAXIMUM = 1e-30  # so that the quotient by it stays finite


def quantize_last(x: Tensor) -> tuple[Tensor, Tensor]:
    """`(xq int8, s float32)`, with one scale for the numbers along the last dimension.

    With m the largest magnitude among them, at least 1e-30: `xq = round_half_even(x * (127 / m))`
    and `s = m / 127`. NaN or infinity among them makes the scale not finite, and with it whatever
    is multiplied by it.
    """
    x = x.float()
    # Two passes, and yet many times faster than `aminmax` or a norm of order infinity.
    maximum = x.abs().amax(dim=-1).clamp_min_(SMALLEST_MAXIMUM)
    xq = (x * number_over(LARGEST, maximum)[..., None]).round_().to(torch.int8)
    return xq, over_number(maximum, LARGEST)
