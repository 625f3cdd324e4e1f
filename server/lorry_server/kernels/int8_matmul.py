"""Int8 matmul in the affine form: integer weights with a scale and a zero point for each row.

    W[n, k] = scale[n] * (q[n, k] - zero[n])
    y[m, n] = s_x[m] * scale[n] * (sum_k xq[m, k] q[n, k] - zero[n] * sum_k xq[m, k])

Activations are quantized symmetrically for each token (row m), so a token's result does not
depend on the others of its batch. The sum over k is exact in int32; both scales are applied to it
in float32, the activation's first. Every faster kernel must give these same bits.

Shape legend: M tokens, N output features, K input features.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

ZERO = 128  # zero point of int8 weights stored unsigned, and offset of activations made unsigned
SMALLEST_MAXIMUM = 1e-30  # so that the reciprocal of a zero row's maximum stays finite


def quantize_tokens(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """`(xq_MK int8 in -127..127, s_x_M float32)`, with `s_x = max|x| / 127` for each row.

    `xq = round_half_even(x * (127 / max|x|))` in float32. A row that holds NaN or infinity gets a
    scale that is not finite, so that its result is not finite either.
    """
    x_MK = x_MK.float()
    smallest_M, largest_M = x_MK.aminmax(dim=1)
    maximum_M = torch.maximum(largest_M, -smallest_M).clamp_min_(SMALLEST_MAXIMUM)
    xq_MK = (x_MK * (127.0 / maximum_M)[:, None]).round_()
    return xq_MK.to(torch.int8), maximum_M / 127.0


def affine_int8_matmul(x_MK: Tensor, q_NK: Tensor, scale_N: Tensor, zero_N: Tensor) -> Tensor:
    """The specification: `y_MN` in the dtype of `x_MK`, for `q_NK` uint8 and `zero_N` int32."""
    xq_MK, scale_x_M = quantize_tokens(x_MK)
    # float64 holds every integer below 2**53, so this integer product is exact on any device
    product_MN = (xq_MK.double() @ q_NK.double().t()).to(torch.int64)
    sum_M = xq_MK.sum(dim=1, dtype=torch.int64)
    exact_MN = product_MN - zero_N.to(torch.int64) * sum_M[:, None]
    return (exact_MN.float() * scale_x_M[:, None] * scale_N).to(x_MK.dtype)


def symmetric_int8_matmul(x_MK: Tensor, w_NK: Tensor, scale_N: Tensor, offset_N: Tensor) -> Tensor:
    """The same result for weights whose zero point is taken off beforehand.

    `w_NK` is int8, `q - zero`; `offset_N` is int32, `ZERO * sum_k w`: on a CPU activations are
    multiplied as `xq + ZERO`, because its instructions want one unsigned operand.
    """
    xq_MK, scale_x_M = quantize_tokens(x_MK)
    y_MN = _int_product(xq_MK, w_NK, offset_N).float()
    return y_MN.mul_(scale_x_M[:, None]).mul_(scale_N).to(x_MK.dtype)


def _int_product(xq_MK: Tensor, w_NK: Tensor, offset_N: Tensor) -> Tensor:
    if xq_MK.device.type == "cpu" and _cpu_product_is_exact():
        return torch._int_mm((xq_MK ^ -128).view(torch.uint8), w_NK.t()).sub_(offset_N)
    if xq_MK.device.type == "cuda" and w_NK.shape[0] % 8 == 0 and w_NK.shape[1] % 8 == 0:
        return _cuda_product(xq_MK, w_NK)
    return xq_MK.double() @ w_NK.double().t()


def _cuda_product(xq_MK: Tensor, w_NK: Tensor) -> Tensor:
    # cuBLAS takes more than 16 rows only
    num_rows = len(xq_MK)
    missing = max(0, 17 - num_rows)
    if missing:
        xq_MK = torch.nn.functional.pad(xq_MK, (0, 0, 0, missing))
    return torch._int_mm(xq_MK, w_NK.t())[:num_rows]


@cache
def _cpu_product_is_exact() -> bool:
    """Whether this CPU's unsigned by signed product is exact.

    Processors without VNNI add pairs of products in int16, which saturates for large values.
    """
    x_MK = torch.full((4, 64), 255, dtype=torch.uint8)
    w_NK = torch.full((16, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(x_MK, w_NK.t()) == 255 * 127 * 64).all())
