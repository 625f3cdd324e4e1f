"""Int8 matmul in the affine form: integer weights with a scale and a zero point for each row.

    W[n, k] = scale[n] * (q[n, k] - zero[n])
    x[m, k] = s_x[m] * (coarse[m, k] + fine[m, k] / 254)      both int8, so about 15 bits
    y[m, n] = s_x[m] * scale[n] * (d(coarse) + d(fine) / 254)
    d(a)[m, n] = sum_k a[m, k] q[n, k] - zero[n] * sum_k a[m, k]

Activations are quantized symmetrically for each token (row m), so a token's result does not
depend on the others of its batch. One byte would not do: a token of a trained model has a few
values hundreds of times its mean, and all the others would be lost beside them
(docs/quantization.md has the figures). Both sums over k are exact in int32; what follows is
float32, in the order in which the formula is written from right to left. Every faster kernel must
give these same bits.

Shape legend: M tokens, N output features, K input features; 2M: coarse rows, then fine rows.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

ZERO = 128  # zero point of int8 weights stored unsigned, and offset of activations made unsigned
FINE_STEPS = 254  # of half a coarse step each way, so that the fine part is within -127..127
SMALLEST_MAXIMUM = 1e-30  # so that the reciprocal of a zero row's maximum stays finite


def quantize_tokens(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """`(xq_2MK int8 in -127..127, s_x_M float32)`, with `s_x = max|x| / 127` for each row.

    With `z = x * (127 / max|x|)` in float32, the first M rows are `coarse = round_half_even(z)`
    and the other M are `fine = round_half_even((z - coarse) * 254)`. A row that holds NaN or
    infinity gets a scale that is not finite, so that its result is not finite either.
    """
    x_MK = x_MK.float()
    smallest_M, largest_M = x_MK.aminmax(dim=1)
    maximum_M = torch.maximum(largest_M, -smallest_M).clamp_min_(SMALLEST_MAXIMUM)
    z_MK = x_MK * (127.0 / maximum_M)[:, None]
    coarse_MK = z_MK.round()
    fine_MK = z_MK.sub_(coarse_MK).mul_(FINE_STEPS).round_()
    return torch.cat([coarse_MK, fine_MK]).to(torch.int8), maximum_M / 127.0


def affine_int8_matmul(x_MK: Tensor, q_NK: Tensor, scale_N: Tensor, zero_N: Tensor) -> Tensor:
    """The specification: `y_MN` in the dtype of `x_MK`, for `q_NK` uint8 and `zero_N` int32."""
    xq_2MK, scale_x_M = quantize_tokens(x_MK)
    # float64 holds every integer below 2**53, so this integer product is exact on any device
    product_2MN = (xq_2MK.double() @ q_NK.double().t()).to(torch.int64)
    sum_2M = xq_2MK.sum(dim=1, dtype=torch.int64)
    exact_2MN = product_2MN - zero_N.to(torch.int64) * sum_2M[:, None]
    return _combine(exact_2MN.float(), scale_x_M, scale_N).to(x_MK.dtype)


def symmetric_int8_matmul(x_MK: Tensor, w_NK: Tensor, scale_N: Tensor, offset_N: Tensor) -> Tensor:
    """The same result for weights whose zero point is taken off beforehand.

    `w_NK` is int8, `q - zero`; `offset_N` is int32, `ZERO * sum_k w`: on a CPU activations are
    multiplied as `xq + ZERO`, because its instructions want one unsigned operand.
    """
    xq_2MK, scale_x_M = quantize_tokens(x_MK)
    exact_2MN = _int_product(xq_2MK, w_NK, offset_N).float()
    return _combine(exact_2MN, scale_x_M, scale_N).to(x_MK.dtype)


def _combine(exact_2MN: Tensor, scale_x_M: Tensor, scale_N: Tensor) -> Tensor:
    coarse_MN, fine_MN = exact_2MN.chunk(2) if len(exact_2MN) else (exact_2MN, exact_2MN)
    y_MN = coarse_MN + fine_MN.mul_(1.0 / FINE_STEPS)
    return y_MN.mul_(scale_x_M[:, None]).mul_(scale_N)


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
