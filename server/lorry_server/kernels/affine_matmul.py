"""Matmul of affine integer weights with activations of one byte and a scale for 32 of them.

    x[m, k] = s[m, g] * xq[m, k]                      xq in -127..127, g = k // 32
    W[n, k] = scale[n] * (q[n, k] - zero[n])          `affine_matmul`: rows
    W[n, k] = scale[n, g] * (q[n, k] - zero[n, g])    `affine_group_matmul`: groups

One scale for a whole token would not do: a token of a trained model has a few values hundreds of
times its mean, and all the others would be lost beside them (docs/quantization.md has the
figures). The groups of one token depend on that token alone.

This is the specification, to the bit. The integer sums of a group are exact, so they may be
computed in any way. All else is float32, one operation after the other in the order written:
products and sums are rounded separately, and groups are added from the first to the last. Every
faster kernel must give the same bits.

Shape legend: M tokens, N output features, K input features, G groups of K, J inputs of a group
(32, the last group padded with zeros).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lorry_server.kernels.symmetric_bytes import LARGEST, quantize_last

GROUP = 32
MIDDLE = 128  # zero point of symmetric rows; bytes are multiplied as `q - 128`, which has a sign


def quantize_groups(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """`(xq_MGJ int8, s_MG float32)`, see `symmetric_bytes.quantize_last`."""
    return quantize_last(in_groups(x_MK))


def affine_matmul(x_MK: Tensor, q_NK: Tensor, scale_N: Tensor, zero_N: Tensor) -> Tensor:
    """`y_MN` in the dtype of `x_MK`; `q_NK` uint8, `scale_N` and `zero_N` float32.

    With `d[m, n, g]` the sum of `(q - 128) * xq` over group g, and `t[m, g]` that of `xq`:

        acc = 0;  for g: acc = acc + float(d) * s[m, g]
        sum = 0;  for g: sum = sum + float(t) * s[m, g]
        acc = acc - (zero[n] - 128) * sum[m]            only if some zero point is not 128
        y = acc * scale[n]
    """
    w_GNJ = in_groups(signed(q_NK)).transpose(0, 1).contiguous()
    return multiply_rows(x_MK, w_GNJ, scale_N, zero_N, is_symmetric=bool((zero_N == MIDDLE).all()))


def affine_group_matmul(x_MK: Tensor, q_NK: Tensor, scale_NG: Tensor, zero_NG: Tensor) -> Tensor:
    """`y_MN` in the dtype of `x_MK`; `q_NK` uint8 and the integers `zero_NG` in 0..15.

    With `d[m, n, g]` the sum of `(q - zero) * xq` over group g:

        acc = 0;  for g: acc = acc + (float(d) * s[m, g]) * scale[n, g]
        y = acc

    `q_NK` may be padded to whole groups with any values.
    """
    q_NGJ = in_groups(q_NK.to(torch.int8))
    w_GNJ = (q_NGJ - zero_NG.to(torch.int8)[:, :, None]).transpose(0, 1).contiguous()
    return multiply_groups(x_MK, w_GNJ, scale_NG.t())


def multiply_rows(
    x_MK: Tensor, w_GNJ: Iterable[Tensor], scale_N: Tensor, zero_N: Tensor, *, is_symmetric: bool
) -> Tensor:
    """`affine_matmul` of weights held as `q - 128` (int8) in groups of inputs, padded with zeros.

    `is_symmetric` says that all of `zero_N` is 128.
    """
    xq_MGJ, scale_MG = quantize_groups(x_MK)
    y_MN = scale_MG.new_zeros(len(x_MK), len(scale_N))
    for xq_MJ, scale_M1, w_NJ in _each_group(xq_MGJ, scale_MG, w_GNJ):
        y_MN.add_(_integer_product(xq_MJ, w_NJ).mul_(scale_M1))
    if not is_symmetric:
        sum_M1 = _weighted_sum(xq_MGJ, scale_MG)
        y_MN.sub_((zero_N - MIDDLE) * sum_M1)
    return y_MN.mul_(scale_N).to(x_MK.dtype)


def multiply_groups(x_MK: Tensor, w_GNJ: Iterable[Tensor], scale_GN: Tensor) -> Tensor:
    """`affine_group_matmul` of weights held as `q - zero` (int8) in groups of inputs."""
    xq_MGJ, scale_MG = quantize_groups(x_MK)
    y_MN = scale_MG.new_zeros(len(x_MK), scale_GN.shape[1])
    groups = _each_group(xq_MGJ, scale_MG, w_GNJ)
    for (xq_MJ, scale_M1, w_NJ), scale_N in zip(groups, scale_GN, strict=True):
        y_MN.add_(_integer_product(xq_MJ, w_NJ).mul_(scale_M1).mul_(scale_N))
    return y_MN.to(x_MK.dtype)


def in_groups(x_RK: Tensor) -> Tensor:
    """`x_RGJ`: the columns in groups of 32, the last one padded with zeros."""
    missing = -x_RK.shape[1] % GROUP
    if missing:
        x_RK = F.pad(x_RK, (0, missing))
    return x_RK.view(len(x_RK), x_RK.shape[1] // GROUP, GROUP)


def signed(q: Tensor) -> Tensor:
    """The bytes `q - 128` (int8) of unsigned ones."""
    return (q ^ MIDDLE).view(torch.int8)


def unsigned(w: Tensor) -> Tensor:
    """The bytes `w + 128` (uint8) of signed ones."""
    return (w ^ -MIDDLE).view(torch.uint8)


def _each_group(
    xq_MGJ: Tensor, scale_MG: Tensor, w_GNJ: Iterable[Tensor]
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    xq_GMJ = xq_MGJ.transpose(0, 1).contiguous()
    scale_GM1 = scale_MG.t().contiguous()[:, :, None]
    return zip(xq_GMJ, scale_GM1, w_GNJ, strict=True)


def _weighted_sum(xq_MGJ: Tensor, scale_MG: Tensor) -> Tensor:
    """`sum[m]` of `affine_matmul`, as a column."""
    parts_MG = xq_MGJ.sum(dim=2, dtype=torch.int32).float().mul_(scale_MG)
    sum_M = torch.zeros_like(parts_MG[:, 0])
    for part_M in parts_MG.unbind(1):
        sum_M.add_(part_M)
    return sum_M[:, None]


def _integer_product(x_MJ: Tensor, w_NJ: Tensor) -> Tensor:
    """`x w^T` of one group's signed bytes as float32, exact: it stays below 2^20."""
    if x_MJ.device.type == "cpu" and integer_product_is_exact():
        return torch._int_mm(x_MJ, w_NJ.t()).float()
    return x_MJ.float() @ w_NJ.float().t()  # exact in any order, for all sums are integers


@cache
def integer_product_is_exact() -> bool:
    """Whether torch's product of signed bytes is exact on this CPU.

    Processors without VNNI may add pairs of products in int16, which saturates for large values;
    others have no such product at all.
    """
    x_MJ = torch.full((4, GROUP), -LARGEST, dtype=torch.int8)
    x_MJ[::2] = LARGEST
    w_NJ = torch.full((16, GROUP), -MIDDLE, dtype=torch.int8)
    w_NJ[::2] = LARGEST
    try:
        product_MN = torch._int_mm(x_MJ, w_NJ.t())
    except RuntimeError:
        return False
    return torch.equal(product_MN.float(), x_MJ.float() @ w_NJ.float().t())
