"""`StepBlock`: a `StepPlan` where the compiled code reads it.

Shape legend: T tokens of the largest step, S sequences, M blocks of the longest, N logits rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorry_server.engine.plan import Int32, StepPlan
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena, address

NO_ADAPTER = -1


class StepBlock:
    """Arrays of fixed places; a step only fills them and sets the counts."""

    def __init__(
        self,
        arena: Arena,
        *,
        max_tokens: int,
        max_rows: int,
        max_blocks: int,
        block_size: int,
        num_ops: int,
        num_threads: int,
        scratch_bytes: int,
        scores_length: int,
    ) -> None:
        self.words = arena.words(t.STEP_WORDS)
        self.max_rows = max_rows
        self._token_ids_T = self._array(t.TOKEN_IDS, arena.ints(max_tokens))
        self._positions_T = self._array(t.POSITIONS, arena.ints(max_tokens))
        self._slots_T = self._array(t.SLOTS, arena.ints(max_tokens))
        self._query_starts_S1 = self._array(t.QUERY_STARTS, arena.ints(max_tokens + 1))
        self._tables_SM = self._array(t.TABLES, arena.ints(max_tokens * max_blocks)).reshape(
            max_tokens, max_blocks
        )
        self._token_adapters_T = self._array(t.TOKEN_ADAPTERS, arena.ints(max_tokens))
        self._rows_N = self._array(t.LOGITS_ROW_IDS, arena.ints(max_rows))
        self._row_adapters_N = self._array(t.ROW_ADAPTERS, arena.ints(max_rows))
        # Kept because the block names only their addresses.
        self._kept = [
            arena.bytes(max_tokens * t.ITEM_BYTES),
            arena.bytes(num_threads * scratch_bytes),
            arena.bytes(num_ops * t.COUNTER_BYTES),
            arena.bytes(num_ops * t.COUNTER_BYTES),
        ]
        items, scratch, claimed, done = (address(array) for array in self._kept)
        chunks = arena.words(num_ops)
        self._kept.append(chunks.view(np.uint8))
        for offset, value in (
            (t.ITEMS, items),
            (t.SCRATCH, scratch),
            (t.SCRATCH_BYTES, scratch_bytes),
            (t.SCORES_LENGTH, scores_length),
            (t.NUM_CHUNKS, address(chunks)),
            (t.CLAIMED, claimed),
            (t.DONE, done),
            (t.TABLE_STRIDE, max_blocks),
            (t.BLOCK_SIZE, block_size),
        ):
            self.set(offset, value)

    def set(self, offset: int, value: int) -> None:
        self.words[offset // t.WORD_BYTES] = value

    def fill(self, plan: StepPlan, adapters_T: Int32 | None) -> None:
        """Everything of a step but its logits rows; `adapters_T` is None where none is used."""
        num_tokens, num_sequences = plan.num_tokens, plan.num_sequences
        self._token_ids_T[:num_tokens] = plan.token_ids_T
        self._positions_T[:num_tokens] = plan.positions_T
        self._slots_T[:num_tokens] = plan.slot_mapping_T
        self._query_starts_S1[: num_sequences + 1] = plan.query_starts_S1
        self._tables_SM[:num_sequences, : plan.block_tables_SM.shape[1]] = plan.block_tables_SM
        if adapters_T is not None:
            self._token_adapters_T[:num_tokens] = adapters_T
        self.set(t.NUM_TOKENS, num_tokens)
        self.set(t.NUM_SEQUENCES, num_sequences)
        self.set(t.HAS_ADAPTERS, adapters_T is not None)

    def fill_rows(self, rows_N: Int32) -> None:
        """The logits rows to compute now: at most `max_rows`."""
        num_rows = len(rows_N)
        self._rows_N[:num_rows] = rows_N
        self._row_adapters_N[:num_rows] = self._token_adapters_T[rows_N]
        self.set(t.NUM_ROWS, num_rows)

    def _array(self, offset: int, array: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        self.set(offset, address(array))
        return array
