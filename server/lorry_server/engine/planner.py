"""`build_plan`: the scheduled sequences of a step, written out as the arrays of a `StepPlan`."""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import numpy as np

from lorry_server.engine.plan import SAMPLE, AdapterSegments, Int32, LogitsPlan, StepPlan
from lorry_server.engine.scheduler import ScheduledSequence
from lorry_server.engine.sequence import Sequence
from lorry_server.lora.slots import AdapterSlots


def build_plan(
    scheduled: Sequences[ScheduledSequence],
    *,
    block_size: int,
    slots: AdapterSlots,
    eos_token_ids: tuple[int, ...],
) -> StepPlan:
    """Lay out one step. Sequences keep the scheduler's order; tokens of each stay together."""
    num_sequences = len(scheduled)
    query_starts_S1 = np.zeros(num_sequences + 1, np.int32)
    np.cumsum([s.num_tokens for s in scheduled], out=query_starts_S1[1:])
    num_tokens = int(query_starts_S1[-1])
    max_blocks = max(len(s.sequence.block_table) for s in scheduled)

    token_ids_T = np.empty(num_tokens, np.int32)
    positions_T = np.empty(num_tokens, np.int32)
    slot_mapping_T = np.empty(num_tokens, np.int32)
    context_lens_S = np.empty(num_sequences, np.int32)
    block_tables_SM = np.zeros((num_sequences, max_blocks), np.int32)
    for index, item in enumerate(scheduled):
        sequence, first = item.sequence, item.sequence.num_computed_tokens
        end = first + item.num_tokens
        here = slice(query_starts_S1[index], query_starts_S1[index + 1])
        token_ids_T[here] = sequence.token_ids[first:end]
        positions = np.arange(first, end, dtype=np.int32)
        positions_T[here] = positions
        table = block_tables_SM[index]
        table[: len(sequence.block_table)] = sequence.block_table
        slot_mapping_T[here] = table[positions // block_size] * block_size + positions % block_size
        context_lens_S[index] = end
    return StepPlan(
        token_ids_T=token_ids_T,
        positions_T=positions_T,
        slot_mapping_T=slot_mapping_T,
        query_starts_S1=query_starts_S1,
        context_lens_S=context_lens_S,
        block_tables_SM=block_tables_SM,
        segments=_segments(scheduled, query_starts_S1, slots),
        logits=_logits_plan(scheduled, query_starts_S1, eos_token_ids),
    )


def _segments(
    scheduled: Sequences[ScheduledSequence], query_starts_S1: Int32, slots: AdapterSlots
) -> AdapterSegments:
    tokens_of: dict[str, list[Int32]] = {}  # adapters in order of their first sequence
    for index, item in enumerate(scheduled):
        adapter = item.sequence.request.adapter
        if adapter is not None:
            tokens = np.arange(query_starts_S1[index], query_starts_S1[index + 1], dtype=np.int32)
            tokens_of.setdefault(adapter, []).append(tokens)
    ranges = [slots.rows(adapter) for adapter in tokens_of]
    runs = [np.concatenate(tokens) for tokens in tokens_of.values()]
    starts_G1 = np.zeros(len(runs) + 1, np.int32)
    np.cumsum([len(run) for run in runs], out=starts_G1[1:])
    return AdapterSegments(
        tokens_P=np.concatenate(runs) if runs else np.zeros(0, np.int32),
        starts_G1=starts_G1,
        rows_G=np.array([r.start for r in ranges], np.int32),
        ranks_G=np.array([r.rank for r in ranges], np.int32),
    )


class _LogitsRows:
    """The rows of a `LogitsPlan` while they are gathered."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.rows: list[int] = []
        self.sequence_indices: list[int] = []
        self.targets: list[int] = []
        self.positions: list[int] = []
        self.num_logprobs: list[int] = []

    def add(
        self,
        sequence: Sequence,
        *,
        row: int,
        index: int,
        target: int,
        position: int,
        num_logprobs: int | None,
    ) -> None:
        self.sequences.append(sequence)
        self.rows.append(row)
        self.sequence_indices.append(index)
        self.targets.append(target)
        self.positions.append(position)
        self.num_logprobs.append(-1 if num_logprobs is None else num_logprobs)


def _logits_plan(
    scheduled: Sequences[ScheduledSequence],
    query_starts_S1: Int32,
    eos_token_ids: tuple[int, ...],
) -> LogitsPlan:
    gathered = _LogitsRows()
    for index, item in enumerate(scheduled):
        sequence, params = item.sequence, item.sequence.request.sampling
        first = sequence.num_computed_tokens
        end = first + item.num_tokens
        row_of_first = int(query_starts_S1[index])
        if params.num_prompt_logprobs is not None:
            # The logits at position p predict the token at p + 1. Those of a resumed sequence
            # that were delivered before its preemption are not computed again.
            known = len(sequence.prompt_logprobs)
            for position in range(max(first, known), min(end, sequence.num_prompt_tokens - 1)):
                gathered.add(
                    sequence,
                    row=row_of_first + position - first,
                    index=index,
                    target=sequence.token_ids[position + 1],
                    position=position + 1,
                    num_logprobs=params.num_prompt_logprobs,
                )
        if end == sequence.num_tokens:
            gathered.add(
                sequence,
                row=row_of_first + item.num_tokens - 1,
                index=index,
                target=SAMPLE,
                position=end,
                num_logprobs=params.num_logprobs,
            )
    return _write_rows(gathered, eos_token_ids)


def _write_rows(gathered: _LogitsRows, eos_token_ids: tuple[int, ...]) -> LogitsPlan:
    params_N = [sequence.request.sampling for sequence in gathered.sequences]
    is_sample_N = [target == SAMPLE for target in gathered.targets]
    histories = [
        sequence.token_ids if is_sample and params.has_penalties else []
        for sequence, params, is_sample in zip(
            gathered.sequences, params_N, is_sample_N, strict=True
        )
    ]
    biases = [
        _biases(sequence, eos_token_ids) if is_sample else {}
        for sequence, is_sample in zip(gathered.sequences, is_sample_N, strict=True)
    ]
    return LogitsPlan(
        rows_N=np.array(gathered.rows, np.int32),
        sequences_N=np.array(gathered.sequence_indices, np.int32),
        targets_N=np.array(gathered.targets, np.int32),
        positions_N=np.array(gathered.positions, np.int64),
        seeds_N=np.array([p.seed for p in params_N], np.int64),
        temperature_N=np.array(
            [0.0 if p.is_greedy else p.temperature for p in params_N], np.float32
        ),
        top_p_N=np.array([p.top_p for p in params_N], np.float32),
        top_k_N=np.array([p.top_k for p in params_N], np.int32),
        min_p_N=np.array([p.min_p for p in params_N], np.float32),
        typical_p_N=np.array([p.typical_p for p in params_N], np.float32),
        presence_penalty_N=np.array([p.presence_penalty for p in params_N], np.float32),
        frequency_penalty_N=np.array([p.frequency_penalty for p in params_N], np.float32),
        repetition_penalty_N=np.array([p.repetition_penalty for p in params_N], np.float32),
        history_starts_N1=_starts([len(history) for history in histories]),
        history_ids=np.array([i for history in histories for i in history], np.int32),
        prompt_lens_N=np.array([s.num_prompt_tokens for s in gathered.sequences], np.int32),
        bias_starts_N1=_starts([len(bias) for bias in biases]),
        bias_ids=np.array([i for bias in biases for i in bias], np.int32),
        bias_values=np.array([v for bias in biases for v in bias.values()], np.float32),
        num_logprobs_N=np.array(gathered.num_logprobs, np.int32),
    )


def _biases(sequence: Sequence, eos_token_ids: tuple[int, ...]) -> dict[int, float]:
    """Added to the logits of the next token: the request's bias, and -inf for a too early end."""
    params = sequence.request.sampling
    bias = dict(params.logit_bias)
    if sequence.num_completion_tokens < params.min_tokens:
        for token_id in (*eos_token_ids, *params.stop_token_ids):
            bias[token_id] = -np.inf
    return bias


def _starts(lengths: list[int]) -> Int32:
    starts = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=starts[1:])
    return starts
