"""`SimpleAttention`: one sequence's attention with a growing cache, written plainly.

Shape legend: T tokens of the step, L tokens of the sequence so far, N query heads, K key and value
heads, H head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


class SimpleAttention:
    """An `AttentionBackend` for one sequence that is fed in order, whole or in chunks."""

    def __init__(self) -> None:
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def attend(
        self,
        layer: int,
        q_TNH: Tensor,
        k_TKH: Tensor,
        v_TKH: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        if layer in self._keys:
            k_TKH = torch.cat((self._keys[layer], k_TKH))
            v_TKH = torch.cat((self._values[layer], v_TKH))
        self._keys[layer], self._values[layer] = k_TKH, v_TKH
        group = q_TNH.shape[1] // k_TKH.shape[1]
        k_LNH, v_LNH = (x.repeat_interleave(group, dim=1) for x in (k_TKH, v_TKH))
        scores_NTL = torch.einsum("tnh,lnh->ntl", q_TNH, k_LNH) * scale
        if softcap is not None:
            scores_NTL = softcap * torch.tanh(scores_NTL / softcap)
        weights_NTL = scores_NTL.masked_fill(
            ~_visible(len(q_TNH), len(k_LNH), window), -torch.inf
        ).softmax(dim=-1)
        return torch.einsum("ntl,lnh->tnh", weights_NTL, v_LNH)


def _visible(num_queries: int, num_keys: int, window: int | None) -> Tensor:
    query_T1 = torch.arange(num_keys - num_queries, num_keys)[:, None]
    key_1L = torch.arange(num_keys)[None]
    visible_TL = key_1L <= query_T1
    return visible_TL if window is None else visible_TL & (key_1L > query_T1 - window)
