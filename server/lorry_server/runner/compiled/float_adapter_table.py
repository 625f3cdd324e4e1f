"""`FloatAdapterTable`: the adapters of float weights where the compiled code finds them.

As `AdapterTable`, a row of entries for each linear, one for each adapter number. A lies by ranks,
filled up to a multiple of four with zeros; B in panels like the weight that it is added to.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorry_server.engine.plan import AdapterSegments, Int32
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.float_pack import pack_elements
from lorry_server.kernels.cpu.memory import Arena, address
from lorry_server.kernels.cpu.pack import GROUP, PANEL, Part, num_panels, padded
from lorry_server.lora.pool import AdapterPool, FloatRows, FloatUpdate
from lorry_server.runner.compiled.adapter_numbers import AdapterNumbers
from lorry_server.runner.compiled.elements import (
    ELEMENT_BYTES,
    INPUTS_PER_STEP,
    as_bits,
    bits_of,
)
from lorry_server.runner.compiled.packed_linear import PackedLinear
from lorry_server.runner.compiled.records import Field

RANK_STEP = 4  # ranks that the shrink computes at once
ENTRY_WORDS = t.LORA_ENTRY_BYTES // t.WORD_BYTES


class FloatAdapterTable:
    """Entries for the adapters of `pool`, on linears whose weights are `element`s."""

    def __init__(self, pool: AdapterPool, arena: Arena, *, max_rows: int, element: int) -> None:
        self._numbers = AdapterNumbers()
        self._element = element
        self._updates: dict[str, FloatRows] = {}
        max_rank = 1
        for name, updates in pool.updates.items():
            assert isinstance(updates, FloatRows)
            self._updates[name] = updates
            for start, of_adapter in updates.by_start.items():
                self._numbers.add(start)
                max_rank = max(max_rank, *(update.rank for update in of_adapter))
        self._groups = padded(max_rank) // GROUP
        # and one row more, which a tile may read
        row_bytes = t.MAX_SLICES * GROUP * self._groups * ELEMENT_BYTES[element]
        self._shrunk = arena.bytes((max_rows + 1) * row_bytes)
        self._arena = arena

    def fields(self, linear: PackedLinear) -> dict[int, Field]:
        """What a record needs to apply adapters to a linear; empty where none targets it."""
        updates = self._updates.get(linear.name)
        if updates is None:
            return {}
        entries = self._arena.words(len(self._numbers) * ENTRY_WORDS).reshape(-1, ENTRY_WORDS)
        for start, of_adapter in updates.by_start.items():
            for update in of_adapter:
                self._write(linear, entries[self._numbers[start]], update)
        row_bytes = GROUP * self._groups * linear.num_slices * ELEMENT_BYTES[self._element]
        return {
            t.LORA: entries,
            t.LORA_XQ: self._shrunk,
            t.LORA_LD_XQ: row_bytes,
            t.LORA_GROUPS: self._groups,
            t.NUM_SLICES: linear.num_slices,
        }

    def numbers(self, segments: AdapterSegments, num_tokens: int) -> Int32 | None:
        """See `AdapterNumbers.of_tokens`."""
        return self._numbers.of_tokens(segments, num_tokens)

    def _write(
        self, linear: PackedLinear, entry: npt.NDArray[np.int64], update: FloatUpdate
    ) -> None:
        index = linear.slice_starts.index(update.part.start)
        parts = linear.parts_of_slice(index)
        first_panel = parts[0].panel
        moved = [
            Part(p.start - update.part.start, p.stop - update.part.start, p.panel - first_panel)
            for p in parts
        ]
        multiple = INPUTS_PER_STEP[self._element]
        panel_bytes = PANEL * ELEMENT_BYTES[self._element] * -(-update.rank // multiple) * multiple
        b = self._arena.bytes(panel_bytes * num_panels(moved))[: panel_bytes * num_panels(moved)]
        b_OR = bits_of(update.b_RO.T, self._element)
        pack_elements(b_OR, moved, as_bits(b, self._element), multiple=multiple)
        words = entry[index * t.SLICE_WORDS : (index + 1) * t.SLICE_WORDS]
        words[t.LORA_RANK // t.WORD_BYTES] = update.rank
        words[t.LORA_A // t.WORD_BYTES] = address(self._ranks(update))
        # the panels are counted from the linear's first
        words[t.LORA_B // t.WORD_BYTES] = address(b) - first_panel * panel_bytes

    def _ranks(self, update: FloatUpdate) -> npt.NDArray[np.uint8]:
        num_ranks, num_inputs = update.a_RI.shape
        width = padded(num_inputs)
        num_filled = -(-num_ranks // RANK_STEP) * RANK_STEP
        memory = self._arena.bytes(num_filled * width * ELEMENT_BYTES[self._element])
        rows = as_bits(memory, self._element).reshape(-1, width)
        rows[:num_ranks, :num_inputs] = bits_of(update.a_RI, self._element)
        return memory
