"""Step plans that no scheduler made: so many rows, each with so much context before it.

Shape legend as in `lorry_server.engine.plan`.
"""

from __future__ import annotations

import numpy as np

from lorry_server.engine.plan import SAMPLE, AdapterSegments, Int32, LogitsPlan, StepPlan

FIRST_TOKEN_ID, END_TOKEN_ID = 100, 40_000


def decode_plan(num_rows: int, context: int, *, block_size: int, seed: int) -> StepPlan:
    """One new token for each of `num_rows` sequences that hold `context` tokens with it.

    Sequence s has blocks of its own, so that what a step reads from the cache is what it would
    read for strangers.
    """
    num_blocks = -(-context // block_size)
    tables_SM = np.arange(num_rows * num_blocks, dtype=np.int32).reshape(num_rows, num_blocks)
    positions_T = np.full(num_rows, context - 1, np.int32)
    return _plan(tables_SM, positions_T, num_queries=1, block_size=block_size, seed=seed)


def prefill_plan(num_tokens: int, context: int, *, block_size: int, seed: int) -> StepPlan:
    """The last `num_tokens` of a prompt of `context` tokens, whose other tokens are computed."""
    tables_SM = np.arange(-(-context // block_size), dtype=np.int32)[None, :]
    positions_T = np.arange(context - num_tokens, context, dtype=np.int32)
    return _plan(tables_SM, positions_T, num_queries=num_tokens, block_size=block_size, seed=seed)


def fill_plan(first_block: int, num_blocks: int, *, block_size: int, seed: int) -> StepPlan:
    """Write every slot of some blocks: each is a prompt of its own, and nothing is sampled."""
    tables_SM = np.arange(first_block, first_block + num_blocks, dtype=np.int32)[:, None]
    positions_T = np.tile(np.arange(block_size, dtype=np.int32), num_blocks)
    return _plan(
        tables_SM,
        positions_T,
        num_queries=block_size,
        block_size=block_size,
        seed=seed,
        is_sampled=False,
    )


def _plan(
    tables_SM: Int32,
    positions_T: Int32,
    *,
    num_queries: int,
    block_size: int,
    seed: int,
    is_sampled: bool = True,
) -> StepPlan:
    num_sequences, num_tokens = len(tables_SM), len(positions_T)
    sequences_T = np.repeat(np.arange(num_sequences), num_queries)
    blocks_T = tables_SM[sequences_T, positions_T // block_size]
    starts_S1 = np.arange(num_sequences + 1, dtype=np.int32) * np.int32(num_queries)
    rng = np.random.default_rng(seed)
    empty = np.zeros(0, np.int32)
    return StepPlan(
        token_ids_T=rng.integers(FIRST_TOKEN_ID, END_TOKEN_ID, num_tokens, dtype=np.int32),
        positions_T=positions_T,
        slot_mapping_T=(blocks_T * block_size + positions_T % block_size).astype(np.int32),
        query_starts_S1=starts_S1,
        context_lens_S=(positions_T[starts_S1[1:] - 1] + 1).astype(np.int32),
        block_tables_SM=tables_SM,
        segments=AdapterSegments(empty, np.zeros(1, np.int32), empty),
        logits=_greedy_rows(
            starts_S1[1:] - 1 if is_sampled else empty, positions_T, num_queries=num_queries
        ),
    )


def _greedy_rows(rows_N: Int32, positions_T: Int32, *, num_queries: int) -> LogitsPlan:
    num_rows = len(rows_N)
    positions_N = positions_T[rows_N].astype(np.int64) + 1
    zeros_N, ones_N = np.zeros(num_rows, np.float32), np.ones(num_rows, np.float32)
    starts_N1, empty = np.zeros(num_rows + 1, np.int32), np.zeros(0, np.int32)
    return LogitsPlan(
        rows_N=rows_N,
        sequences_N=(rows_N // num_queries).astype(np.int32),
        targets_N=np.full(num_rows, SAMPLE, np.int32),
        positions_N=positions_N,
        seeds_N=np.zeros(num_rows, np.int64),
        temperature_N=zeros_N,
        top_p_N=ones_N,
        top_k_N=np.zeros(num_rows, np.int32),
        min_p_N=zeros_N,
        typical_p_N=ones_N,
        presence_penalty_N=zeros_N,
        frequency_penalty_N=zeros_N,
        repetition_penalty_N=ones_N,
        history_starts_N1=starts_N1,
        history_ids=empty,
        prompt_lens_N=positions_N.astype(np.int32),
        bias_starts_N1=starts_N1,
        bias_ids=empty,
        bias_values=np.zeros(0, np.float32),
        num_logprobs_N=np.full(num_rows, -1, np.int32),
    )
