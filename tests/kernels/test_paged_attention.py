"""Paged attention against dense causal attention, over lengths, heads, windows and soft caps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lorry_server.kernels.paged_attention import group_queries, paged_attention, write_kv

HEAD = 8


def dense(
    q_QNH: torch.Tensor,
    k_LKH: torch.Tensor,
    v_LKH: torch.Tensor,
    *,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of the last Q tokens of a sequence, written out."""
    num_queries, length = len(q_QNH), len(k_LKH)
    repeat = q_QNH.shape[1] // k_LKH.shape[1]
    k = k_LKH.repeat_interleave(repeat, dim=1)
    v = v_LKH.repeat_interleave(repeat, dim=1)
    scores = torch.einsum("qnh,lnh->nql", q_QNH, k) * 0.3
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    for query in range(num_queries):
        position = length - num_queries + query
        for key in range(length):
            if key > position or (window is not None and key <= position - window):
                scores[:, query, key] = -torch.inf
    return torch.einsum("nql,lnh->qnh", scores.softmax(-1), v)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize(
    "lengths",
    [
        [(1, 1)],  # (queries, context) of each sequence; blocks hold four tokens
        [(1, 4), (1, 5), (1, 13)],
        [(7, 7)],
        [(3, 11), (1, 9), (4, 4), (1, 1)],
        [(2, 8), (2, 9)],
    ],
)
def test_paged_attention_equals_dense_attention(
    lengths: list[tuple[int, int]],
    num_heads: int,
    num_kv_heads: int,
    softcap: float | None,
    window: int | None,
) -> None:
    generator = torch.Generator().manual_seed(len(lengths) * num_heads)
    rng = np.random.default_rng(0)
    block_size, num_blocks = 4, 24
    max_blocks = max(-(-context // block_size) for _, context in lengths)
    free = rng.permutation(num_blocks).tolist()
    tables = np.zeros((len(lengths), max_blocks), np.int32)
    k_KCH = torch.full((num_kv_heads, num_blocks * block_size, HEAD), torch.nan)
    v_KCH = k_KCH.clone()
    queries, keys, values = [], [], []
    for index, (_, context) in enumerate(lengths):
        count = -(-context // block_size)
        tables[index, :count] = [free.pop() for _ in range(count)]
        queries.append(torch.randn(context, num_heads, HEAD, generator=generator))
        keys.append(torch.randn(context, num_kv_heads, HEAD, generator=generator))
        values.append(torch.randn(context, num_kv_heads, HEAD, generator=generator))
        positions = np.arange(context)
        slots = tables[index][positions // block_size] * block_size + positions % block_size
        write_kv(keys[-1], values[-1], k_KCH, v_KCH, torch.from_numpy(slots.astype(np.int64)))
    # What is past a sequence's end may hold anything that was there before, but numbers.
    k_KCH.nan_to_num_(7.0)
    v_KCH.nan_to_num_(-7.0)
    groups = group_queries(
        positions_T=np.concatenate([np.arange(c - q, c) for q, c in lengths]).astype(np.int32),
        query_starts_S1=np.cumsum([0, *(q for q, _ in lengths)]).astype(np.int32),
        context_lens_S=np.array([c for _, c in lengths], np.int32),
        block_tables_SM=tables,
        block_size=block_size,
        device=torch.device("cpu"),
    )
    q_TNH = torch.cat([q[-n:] for q, (n, _) in zip(queries, lengths, strict=True)])

    out_TNH = paged_attention(
        q_TNH, k_KCH, v_KCH, groups, scale=0.3, window=window, softcap=softcap
    )

    expected = torch.cat(
        [
            dense(q[-n:], k, v, window=window, softcap=softcap)
            for q, k, v, (n, _) in zip(queries, keys, values, lengths, strict=True)
        ]
    )
    torch.testing.assert_close(out_TNH, expected, atol=1e-5, rtol=1e-5)


def test_dense_attention_of_this_test_equals_torch() -> None:
    q, k, v = torch.randn(3, 9, 2, HEAD, generator=torch.Generator().manual_seed(0))

    expected = F.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True, scale=0.3
    ).transpose(0, 1)

    torch.testing.assert_close(dense(q, k, v, window=None, softcap=None), expected)


def test_a_cache_of_fewer_bits_keeps_the_outputs_dtype() -> None:
    k_KCH = torch.zeros(1, 8, HEAD, dtype=torch.bfloat16)
    v_KCH = torch.zeros(1, 8, HEAD, dtype=torch.bfloat16)
    k_TKH = torch.randn(3, 1, HEAD)
    write_kv(k_TKH, k_TKH, k_KCH, v_KCH, torch.tensor([2, 3, 4]))

    assert torch.equal(v_KCH[0, 2:5], k_TKH[:, 0].bfloat16())
    assert not k_KCH[0, [0, 1, 5, 6, 7]].any()
