"""`build_plan`: the scheduled sequences of a step, written out as the arrays of a `StepPlan`.

A step of a small model takes a few milliseconds, so this counts: what belongs to one sequence is
gathered as Python numbers, and an array is made once a step, never once a sequence.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Sequences
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from lorry_server.engine.plan import SAMPLE, AdapterSegments, Int32, LogitsPlan, StepPlan
from lorry_server.engine.sampling_columns import SamplingColumns, column_arrays
from lorry_server.engine.scheduler import ScheduledSequence
from lorry_server.engine.sequence import Sequence
from lorry_server.lora.residency import Residency

NO_SEGMENTS = AdapterSegments(
    tokens_P=np.zeros(0, np.int32),
    starts_G1=np.zeros(1, np.int32),
    slots_G=np.zeros(0, np.int32),
)


def build_plan(
    scheduled: Sequences[ScheduledSequence],
    *,
    block_size: int,
    residency: Residency,
    eos_token_ids: tuple[int, ...],
) -> StepPlan:
    """Lay out one step. Sequences keep the scheduler's order; tokens of each stay together."""
    token_ids = array("i")
    firsts: list[int] = []  # first position of each sequence in the step
    starts = [0]  # of each sequence in the flat arrays
    for item in scheduled:
        sequence = item.sequence
        first = sequence.num_computed_tokens
        firsts.append(first)
        token_ids.extend(sequence.token_ids[first : first + item.num_tokens])
        token_ids.extend(item.draft)
        starts.append(len(token_ids))
    query_starts_S1 = np.array(starts, np.int32)
    firsts_S = np.array(firsts, np.int32)
    lens_S = query_starts_S1[1:] - query_starts_S1[:-1]
    positions_T = np.arange(len(token_ids), dtype=np.int32)
    positions_T -= np.repeat(query_starts_S1[:-1] - firsts_S, lens_S)
    block_tables_SM = _block_tables([item.sequence.block_table for item in scheduled])
    sequences_T = np.repeat(np.arange(len(scheduled)), lens_S)
    blocks_T = block_tables_SM[sequences_T, positions_T // block_size]
    return StepPlan(
        token_ids_T=np.array(token_ids, np.int32),
        positions_T=positions_T,
        slot_mapping_T=blocks_T * block_size + positions_T % block_size,
        query_starts_S1=query_starts_S1,
        context_lens_S=firsts_S + lens_S,
        block_tables_SM=block_tables_SM,
        segments=_segments(scheduled, starts, residency),
        logits=_logits_plan(scheduled, starts, eos_token_ids),
    )


def _block_tables(tables: list[array[int]]) -> Int32:
    width = max(len(table) for table in tables)
    num_bytes = width * array("i").itemsize
    rows = bytearray().join(table.tobytes().ljust(num_bytes, b"\0") for table in tables)
    return np.frombuffer(rows, np.int32).reshape(len(tables), width)


def _segments(
    scheduled: Sequences[ScheduledSequence], starts: list[int], residency: Residency
) -> AdapterSegments:
    if all(item.sequence.request.adapter is None for item in scheduled):
        return NO_SEGMENTS
    tokens_of: dict[str, list[int]] = {}  # adapters in order of their first sequence
    for index, item in enumerate(scheduled):
        adapter = item.sequence.request.adapter
        if adapter is not None:
            tokens_of.setdefault(adapter, []).extend(range(starts[index], starts[index + 1]))
    return AdapterSegments(
        tokens_P=np.array([token for run in tokens_of.values() for token in run], np.int32),
        starts_G1=_starts(len(run) for run in tokens_of.values()),
        slots_G=np.array([residency.slot(adapter) for adapter in tokens_of], np.int32),
    )


class _LogitsRow(NamedTuple):
    """What distinguishes a row of the `LogitsPlan` from the others of its sequence."""

    row: int
    sequence: int  # its index in the step
    target: int
    position: int
    num_logprobs: int


class _LogitsRows:
    """The rows of a `LogitsPlan` while they are gathered."""

    def __init__(self, eos_token_ids: tuple[int, ...]) -> None:
        self._eos_token_ids = eos_token_ids
        self._rows: list[_LogitsRow] = []
        self._columns: list[SamplingColumns] = []
        self._history_ids = array("i")
        self._history_starts = [0]
        self._bias_ids: list[int] = []
        self._bias_values: list[float] = []
        self._bias_starts = [0]

    def add_prompt_token(self, sequence: Sequence, *, row: int, index: int, position: int) -> None:
        """A row that gives the logprob of the prompt token at `position`."""
        num_logprobs = sequence.request.sampling.num_prompt_logprobs
        assert num_logprobs is not None
        self._rows.append(
            _LogitsRow(row, index, sequence.token_ids[position], position, num_logprobs)
        )
        self._columns.append(sequence.sampling_columns)
        self._history_starts.append(len(self._history_ids))
        self._bias_starts.append(len(self._bias_ids))

    def add_sample(
        self, sequence: Sequence, *, row: int, index: int, draft: tuple[int, ...]
    ) -> None:
        """A row that chooses the token behind `sequence` and `draft`."""
        params = sequence.request.sampling
        num_logprobs = -1 if params.num_logprobs is None else params.num_logprobs
        position = len(sequence.token_ids) + len(draft)
        self._rows.append(_LogitsRow(row, index, SAMPLE, position, num_logprobs))
        self._columns.append(sequence.sampling_columns)
        if params.has_penalties:
            self._history_ids.extend(sequence.token_ids)
            self._history_ids.extend(draft)
        self._history_starts.append(len(self._history_ids))
        is_too_early = position - sequence.num_prompt_tokens < params.min_tokens
        if params.logit_bias or is_too_early:
            bias = dict(params.logit_bias)
            if is_too_early:
                for token_id in (*self._eos_token_ids, *params.stop_token_ids):
                    bias[token_id] = -np.inf
            self._bias_ids.extend(bias)
            self._bias_values.extend(bias.values())
        self._bias_starts.append(len(self._bias_ids))

    def to_plan(self) -> LogitsPlan:
        rows = _LogitsRow(*(zip(*self._rows, strict=True) if self._rows else [()] * 5))
        columns = column_arrays(tuple(self._columns))
        return LogitsPlan(
            rows_N=np.array(rows.row, np.int32),
            sequences_N=np.array(rows.sequence, np.int32),
            targets_N=np.array(rows.target, np.int32),
            positions_N=np.array(rows.position, np.int64),
            seeds_N=columns["seed"],
            temperature_N=columns["temperature"],
            top_p_N=columns["top_p"],
            top_k_N=columns["top_k"],
            min_p_N=columns["min_p"],
            typical_p_N=columns["typical_p"],
            presence_penalty_N=columns["presence_penalty"],
            frequency_penalty_N=columns["frequency_penalty"],
            repetition_penalty_N=columns["repetition_penalty"],
            history_starts_N1=np.array(self._history_starts, np.int32),
            history_ids=np.array(self._history_ids, np.int32),
            prompt_lens_N=columns["prompt_len"],
            bias_starts_N1=np.array(self._bias_starts, np.int32),
            bias_ids=np.array(self._bias_ids, np.int32),
            bias_values=np.array(self._bias_values, np.float32),
            num_logprobs_N=np.array(rows.num_logprobs, np.int32),
        )


def _logits_plan(
    scheduled: Sequences[ScheduledSequence], starts: list[int], eos_token_ids: tuple[int, ...]
) -> LogitsPlan:
    rows = _LogitsRows(eos_token_ids)
    for index, item in enumerate(scheduled):
        sequence, draft = item.sequence, item.draft
        first = sequence.num_computed_tokens
        end = first + item.num_tokens
        row_of_first = starts[index]
        if sequence.request.sampling.num_prompt_logprobs is not None:
            # The logits at position p predict the token at p + 1. Those of a resumed sequence
            # that were delivered before its preemption are not computed again.
            known = len(sequence.prompt_logprobs)
            for position in range(max(first, known), min(end, sequence.num_prompt_tokens - 1)):
                row = row_of_first + position - first
                rows.add_prompt_token(sequence, row=row, index=index, position=position + 1)
        if end == len(sequence.token_ids):
            last_row = row_of_first + item.num_tokens - 1
            rows.add_sample(sequence, row=last_row, index=index, draft=())
            for length in range(1, len(draft) + 1):
                rows.add_sample(sequence, row=last_row + length, index=index, draft=draft[:length])
    return rows.to_plan()


def _starts(lengths: Iterable[int]) -> Int32:
    return np.array([0, *accumulate(lengths)], np.int32)
