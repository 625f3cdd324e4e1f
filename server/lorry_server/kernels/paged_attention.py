"""Reference of paged attention: write this step's keys and values, then attend over the blocks.

The specification that fast kernels are compared with. Queries of a step are grouped by what their
sequences have in common: every sequence with one query (decode) is computed in one batch, padded
to the longest context; a sequence with more (prefill) by itself. Scores and sums are float32.

Shape legend: T tokens of the step, S sequences, M blocks of a table, N query heads, K key and
value heads, G query heads per key head, H head size, L context length, Q queries of a group,
B sequences of a group, C slots of the cache (blocks x block size).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lorry_server.engine.plan import Int32


class QueryGroup:
    """Sequences with the same number of queries, and where their context lies in the cache.

    `tokens_BQ` indexes the step's tokens, `slots_BL` the cache; `positions_BQ` are the queries'
    positions; entries of `slots_BL` at or past a sequence's end are hidden by the causal mask.
    """

    def __init__(self, *, tokens_BQ: Tensor, slots_BL: Tensor, positions_BQ: Tensor) -> None:
        self.tokens_BQ = tokens_BQ
        self.slots_BL = slots_BL
        self.positions_BQ = positions_BQ
        self._hidden: dict[tuple[int | None, int], Tensor] = {}

    def hidden_BXL(self, window: int | None, *, repeat: int) -> Tensor:
        """True where a query must not look: later tokens, and those before its window.

        X is the group's queries, `repeat` times one after the other. Layers share the answer.
        """
        key = (window, repeat)
        if key not in self._hidden:
            keys_L = torch.arange(self.slots_BL.shape[1], device=self.slots_BL.device)
            positions_BQ1 = self.positions_BQ[:, :, None]
            hidden_BQL = keys_L > positions_BQ1
            if window is not None:
                hidden_BQL |= keys_L <= positions_BQ1 - window
            self._hidden[key] = hidden_BQL.repeat(1, repeat, 1)
        return self._hidden[key]


def group_queries(
    *,
    positions_T: Int32,
    query_starts_S1: Int32,
    context_lens_S: Int32,
    block_tables_SM: Int32,
    block_size: int,
    device: torch.device,
    context_multiple: int = 1,
) -> list[QueryGroup]:
    """Group a step's sequences for an attention kernel: all decodes together, each prefill alone.

    A group's context is its longest one, rounded up to a multiple of `context_multiple`.
    """
    num_queries_S = np.diff(query_starts_S1)
    decodes = np.flatnonzero(num_queries_S == 1)
    members = [decodes] if len(decodes) else []
    members += [np.array([index]) for index in np.flatnonzero(num_queries_S != 1)]
    groups = []
    for sequences_B in members:
        num_queries = int(num_queries_S[sequences_B[0]])
        tokens_BQ = query_starts_S1[sequences_B][:, None] + np.arange(num_queries)
        longest = int(context_lens_S[sequences_B].max())
        keys_L = np.arange(-(-longest // context_multiple) * context_multiple)
        # Past the end of the tables any block will do, for it is hidden.
        columns_L = np.minimum(keys_L // block_size, block_tables_SM.shape[1] - 1)
        blocks_BL = block_tables_SM[sequences_B][:, columns_L]
        slots_BL = blocks_BL.astype(np.int64) * block_size + keys_L % block_size
        groups.append(
            QueryGroup(
                tokens_BQ=torch.from_numpy(tokens_BQ.astype(np.int64)).to(device),
                slots_BL=torch.from_numpy(slots_BL).to(device),
                positions_BQ=torch.from_numpy(positions_T[tokens_BQ].astype(np.int64)).to(device),
            )
        )
    return groups


def write_kv(
    k_TKH: Tensor, v_TKH: Tensor, k_KCH: Tensor, v_KCH: Tensor, slot_mapping_T: Tensor
) -> None:
    """Store the step's keys and values in their slots, converted to the cache's dtype."""
    k_KCH.index_copy_(1, slot_mapping_T, k_TKH.transpose(0, 1).to(k_KCH.dtype))
    v_KCH.index_copy_(1, slot_mapping_T, v_TKH.transpose(0, 1).to(v_KCH.dtype))


def paged_attention(
    q_TNH: Tensor,
    k_KCH: Tensor,
    v_KCH: Tensor,
    groups: list[QueryGroup],
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal grouped-query attention of the step's queries over the cache; returns `T, N, H`.

    `scale` multiplies the scores, `softcap` bounds them by `softcap * tanh(score / softcap)`
    (Gemma 2), `window` limits a query to that many latest tokens, itself among them.
    """
    num_heads, head_dim = q_TNH.shape[1:]
    num_kv_heads = k_KCH.shape[0]
    out_TNH = torch.empty_like(q_TNH)
    for group in groups:
        batch, queries = group.tokens_BQ.shape
        context = group.slots_BL.shape[1]
        slots = group.slots_BL.flatten()
        k_KBLH = k_KCH.index_select(1, slots).view(num_kv_heads, batch, context, head_dim)
        v_KBLH = v_KCH.index_select(1, slots).view(num_kv_heads, batch, context, head_dim)
        q_BQKGH = q_TNH[group.tokens_BQ].view(batch, queries, num_kv_heads, -1, head_dim)
        q_KBXH = q_BQKGH.permute(2, 0, 3, 1, 4).reshape(num_kv_heads, batch, -1, head_dim)
        scores_KBXL = (q_KBXH.float() @ k_KBLH.float().mT) * scale
        if softcap is not None:
            scores_KBXL = softcap * torch.tanh(scores_KBXL / softcap)
        hidden_BXL = group.hidden_BXL(window, repeat=num_heads // num_kv_heads)
        scores_KBXL.masked_fill_(hidden_BXL, -torch.inf)
        out_KBXH = torch.softmax(scores_KBXL, dim=-1) @ v_KBLH.float()
        out_KBGQH = out_KBXH.view(num_kv_heads, batch, -1, queries, head_dim)
        out_BQNH = out_KBGQH.permute(1, 3, 0, 2, 4).reshape(batch, queries, num_heads, head_dim)
        out_TNH[group.tokens_BQ] = out_BQNH.to(out_TNH.dtype)
    return out_TNH
