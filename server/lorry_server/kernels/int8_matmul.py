"""Int8 matmul in the affine form: integer weights with a scale and a zero point for each row.

    W[n, k] = scale[n] * (q[n, k] - zero[n])
    x[m, k] = s_x[m] * xq[m, k]                  int16, in two bytes: xq = 256 high + low
    y[m, n] = (256 d(high) + d(low)) * s_x[m] * scale[n]
    d(a)[m, n] = sum_k a[m, k] q[n, k] - zero[n] * sum_k a[m, k]

Activations are quantized symmetrically for each token (row m), so a token's result does not
depend on the others of its batch. One byte would not do: a token of a trained model has a few
values hundreds of times its mean, and all the others would be lost beside them
(docs/quantization.md has the figures). Both sums over k are exact in int32; what follows is
float32, in the order in which it is written. Every faster kernel must give these same bits.

Shape legend: M tokens, N output features, K input features; 2M: low bytes, then high bytes.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

ZERO = 128  # zero point of int8 weights stored unsigned, and offset of high bytes made unsigned
LARGEST = 127 * 256 + 127  # of xq, so that the high byte stays within -128..127
SMALLEST_MAXIMUM = 1e-30  # so that the reciprocal of a zero row's maximum stays finite


def quantize_tokens(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """`(xq_MK int16, s_x_M float32)`, with `s_x = max|x| / 32639` for each row.

    `xq = round_half_even(x * (32639 / max|x|))` in float32. A row that holds NaN or infinity gets
    a scale that is not finite, so that its result is not finite either.
    """
    x_MK = x_MK.float()
    # Two passes, and yet many times faster than `aminmax` or a norm of order infinity.
    maximum_M = x_MK.abs().amax(dim=1).clamp_min_(SMALLEST_MAXIMUM)
    xq_MK = (x_MK * (LARGEST / maximum_M)[:, None]).round_()
    return xq_MK.to(torch.int16), maximum_M / LARGEST


def affine_int8_matmul(x_MK: Tensor, q_NK: Tensor, scale_N: Tensor, zero_N: Tensor) -> Tensor:
    """The specification: `y_MN` in the dtype of `x_MK`, for `q_NK` uint8 and `zero_N` int32."""
    xq_MK, scale_x_M = quantize_tokens(x_MK)
    bytes_2MK = torch.cat([xq_MK & 255, xq_MK >> 8])
    # float64 holds every integer below 2**53, so this integer product is exact on any device
    product_2MN = (bytes_2MK.double() @ q_NK.double().t()).to(torch.int64)
    sum_2M = bytes_2MK.sum(dim=1, dtype=torch.int64)
    exact_2MN = product_2MN - zero_N.to(torch.int64) * sum_2M[:, None]
    return _scale(exact_2MN.float(), scale_x_M, scale_N).to(x_MK.dtype)


def symmetric_int8_matmul(x_MK: Tensor, w_NK: Tensor, scale_N: Tensor, offset_N: Tensor) -> Tensor:
    """The same result for weights whose zero point is taken off beforehand.

    `w_NK` is int8, `q - zero`; `offset_N` is int32, `ZERO * sum_k w`: on a CPU high bytes are
    multiplied as `high + ZERO`, because its instructions want one unsigned operand.
    """
    xq_MK, scale_x_M = quantize_tokens(x_MK)
    exact_2MN = _int_product(xq_MK, w_NK, offset_N).float()
    return _scale(exact_2MN, scale_x_M, scale_N).to(x_MK.dtype)


def _scale(exact_2MN: Tensor, scale_x_M: Tensor, scale_N: Tensor) -> Tensor:
    num_tokens = len(scale_x_M)
    y_MN = torch.add(exact_2MN[:num_tokens], exact_2MN[num_tokens:], alpha=256.0)
    return y_MN.mul_(scale_x_M[:, None]).mul_(scale_N)


def _int_product(xq_MK: Tensor, w_NK: Tensor, offset_N: Tensor) -> Tensor:
    """`d` of the low and of the high bytes, exact, int32 or float64."""
    num_tokens, num_inputs = xq_MK.shape
    if xq_MK.device.type == "cpu" and _cpu_product_is_exact():
        # Flipping the sign bit adds 128 to the high byte. Bytes are little-endian: low first.
        pairs_MK2 = (xq_MK ^ -32768).view(torch.uint8).view(num_tokens, num_inputs, 2)
        bytes_2MK = pairs_MK2.permute(2, 0, 1).reshape(2 * num_tokens, num_inputs)
        product_2MN = torch._int_mm(bytes_2MK, w_NK.t())
        product_2MN[num_tokens:].sub_(offset_N)
        return product_2MN
    low_MK, high_MK = xq_MK & 255, xq_MK >> 8
    if xq_MK.device.type == "cuda" and w_NK.shape[0] % 8 == 0 and w_NK.shape[1] % 8 == 0:
        # Its instructions want two signed operands: low bytes are multiplied as `low - 128`.
        signed_2MK = torch.cat([low_MK - ZERO, high_MK]).to(torch.int8)
        product_2MN = _cuda_product(signed_2MK, w_NK)
        product_2MN[:num_tokens].add_(offset_N)
        return product_2MN
    return torch.cat([low_MK, high_MK]).double() @ w_NK.double().t()


def _cuda_product(x_RK: Tensor, w_NK: Tensor) -> Tensor:
    # cuBLAS takes more than 16 rows only
    num_rows = len(x_RK)
    missing = max(0, 17 - num_rows)
    if missing:
        x_RK = torch.nn.functional.pad(x_RK, (0, 0, 0, missing))
    return torch._int_mm(x_RK, w_NK.t())[:num_rows]


@cache
def _cpu_product_is_exact() -> bool:
    """Whether this CPU's unsigned by signed product is exact.

    Processors without VNNI add pairs of products in int16, which saturates for large values;
    others have no such product at all.
    """
    x_MK = torch.full((4, 64), 255, dtype=torch.uint8)
    w_NK = torch.full((16, 64), 127, dtype=torch.int8)
    try:
        product_MN = torch._int_mm(x_MK, w_NK.t())
    except RuntimeError:
        return False
    return bool((product_MN == 255 * 127 * 64).all())
