"""Paged attention over keys and values of one byte, with one scale for each token and head.

The specification, to the bit. Queries, keys and values are quantized by
`symmetric_bytes.quantize_last` along the head: q = sq * qq, k = sk * kq, v = sv * vq. For the
query at one position and each token t that it sees, with d the exact integer sum of qq * kq:

    score[t] = (float(d) * (sq * scale)) * sk[t]
    score[t] = softcap * tanh(score[t] / softcap)      where there is a softcap
    p[t] = exp(score[t] - max score)                   `kernels.exp`; 0 where t is hidden
    l = float32(sum of float64(p))

The weights p are bytes too, for groups g of 32 tokens by their position in the sequence, t // 32.
The values' scales are folded in before, so that a group's sum over its tokens is of integers:

    w[t] = p[t] * sv[t]
    m = max of w over the group, at least 1e-30
    pq[t] = round_half_even(w[t] * (255 / m)), in 0..255;  s = m / 255
    acc[h] = acc[h] + float(d) * s                     d the exact sum of pq * vq[h]; g in order
    out[h] = acc[h] / l

All but the integer sums is float32, one operation after the other. A hidden token contributes
exact zeros, so neither padding nor the way in which a prompt is cut into chunks changes a bit.

Shape legend: T tokens of the step, N query heads, K key and value heads, H head size, C slots of
the cache; B sequences of a group of queries, X its rows for each key head (query heads x queries),
L context length, G groups of 32 tokens, J tokens of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.kernels.division import number_over, over_number
from lorry_server.kernels.exp import exp, soft_cap
from lorry_server.kernels.paged_attention import QueryGroup
from lorry_server.kernels.symmetric_bytes import SMALLEST_MAXIMUM, quantize_last

TOKEN_GROUP = 32  # contexts of the `QueryGroup`s must be multiples of it
LARGEST_WEIGHT = 255


@dataclass(frozen=True, slots=True)
class Int8Slots:
    """One layer's keys or values: int8, and their float32 scales."""

    x_KCH: Tensor
    scale_KC: Tensor

    def write(self, x_TKH: Tensor, slots_T: Tensor) -> None:
        """Quantize and store the step's keys or values."""
        xq_TKH, scale_TK = quantize_last(x_TKH)
        self.x_KCH.index_copy_(1, slots_T, xq_TKH.transpose(0, 1))
        self.scale_KC.index_copy_(1, slots_T, scale_TK.t())

    def read(self, slots_BL: Tensor) -> tuple[Tensor, Tensor]:
        """`(x_KBLH, scale_KBL)`, both float32."""
        batch, context = slots_BL.shape
        slots = slots_BL.flatten()
        x = self.x_KCH.index_select(1, slots).float()
        scale = self.scale_KC.index_select(1, slots)
        return torch.unflatten(x, 1, (batch, context)), torch.unflatten(scale, 1, (batch, context))


def int8_attention(
    q_TNH: Tensor,
    keys: Int8Slots,
    values: Int8Slots,
    groups: list[QueryGroup],
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal grouped-query attention as `paged_attention.paged_attention`; returns `T, N, H`."""
    num_heads, head_dim = q_TNH.shape[1:]
    num_kv_heads = len(keys.x_KCH)
    out_TNH = torch.empty_like(q_TNH)
    qq_TNH, scale_TN = quantize_last(q_TNH)
    scale_TN.mul_(scale)
    for group in groups:
        batch, queries = group.tokens_BQ.shape
        qq_KBXH = _by_kv_head(qq_TNH[group.tokens_BQ], num_kv_heads)
        scale_KBX = _by_kv_head(scale_TN[group.tokens_BQ], num_kv_heads)
        hidden_BXL = group.hidden_BXL(window, repeat=num_heads // num_kv_heads)
        k_KBLH, scale_KBL = keys.read(group.slots_BL)
        # float32 holds the sums of up to 1,040 products of two such bytes
        scores_KBXL = qq_KBXH.float() @ k_KBLH.mT
        scores_KBXL.mul_(scale_KBX[..., None]).mul_(scale_KBL[:, :, None])
        if softcap is not None:
            scores_KBXL = soft_cap(scores_KBXL, softcap)
        out_KBXH = _weigh(scores_KBXL, hidden_BXL, *values.read(group.slots_BL))
        out_KBGQH = torch.unflatten(out_KBXH, 2, (-1, queries))
        out_BQNH = out_KBGQH.permute(1, 3, 0, 2, 4).reshape(batch, queries, num_heads, head_dim)
        out_TNH[group.tokens_BQ] = out_BQNH.to(out_TNH.dtype)
    return out_TNH


def _by_kv_head(x_BQN: Tensor, num_kv_heads: int) -> Tensor:
    """`B, Q, N, ...` to `K, B, X, ...`; in X the queries of one head follow each other."""
    x_BQKG = torch.unflatten(x_BQN, 2, (num_kv_heads, -1))
    return x_BQKG.movedim(2, 0).transpose(2, 3).flatten(2, 3)


def _weigh(scores_KBXL: Tensor, hidden_BXL: Tensor, v_KBLH: Tensor, scale_KBL: Tensor) -> Tensor:
    """`out_KBXH`: the values' mean, weighted by the softmax of the scores that are not hidden."""
    scores_KBXL = scores_KBXL.masked_fill_(hidden_BXL, -torch.inf)
    p_KBXL = exp(scores_KBXL.sub_(scores_KBXL.amax(dim=-1, keepdim=True)))
    p_KBXL.masked_fill_(hidden_BXL, 0.0)
    # Masked again, because the scale of a slot that was never this sequence's may be NaN.
    w_KBXL = (p_KBXL * scale_KBL[:, :, None]).masked_fill_(hidden_BXL, 0.0)
    w_KBXGJ = torch.unflatten(w_KBXL, -1, (-1, TOKEN_GROUP))
    maximum_KBXG = w_KBXGJ.amax(dim=-1).clamp_min_(SMALLEST_MAXIMUM)
    pq_KBXGJ = (w_KBXGJ * number_over(LARGEST_WEIGHT, maximum_KBXG)[..., None]).round_()
    step_KBXG = over_number(maximum_KBXG, LARGEST_WEIGHT)
    # Summed for each group, then group by group, so that padding does not change the order.
    sum_KBXG = torch.unflatten(p_KBXL, -1, (-1, TOKEN_GROUP)).sum(dim=-1, dtype=torch.float64)
    sum_KBX = torch.zeros_like(sum_KBXG[..., 0])
    out_KBXH = v_KBLH.new_zeros((*sum_KBX.shape, v_KBLH.shape[-1]))
    for index, v_KBJH in enumerate(torch.split(v_KBLH, TOKEN_GROUP, dim=2)):
        sum_KBX.add_(sum_KBXG[..., index])
        out_KBXH.add_((pq_KBXGJ[..., index, :] @ v_KBJH).mul_(step_KBXG[..., index, None]))
    return out_KBXH.div_(sum_KBX.float()[..., None])
