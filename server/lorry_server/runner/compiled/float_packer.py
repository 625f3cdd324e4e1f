"""`FloatPacker`: adapters of float weights, in the order in which the tiles read them.

A lies by ranks, filled up to a multiple of four with zeros; B in panels like the weight that it is
added to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.float_pack import pack_elements
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import GROUP, PANEL, Part, num_panels, padded
from lorry_server.lora.matched import MatchedSlice, OwnRows
from lorry_server.lora.peft_tensors import LoraWeights
from lorry_server.runner.compiled.adapter_memory import AdapterMemory, Entry
from lorry_server.runner.compiled.elements import ELEMENT_BYTES, INPUTS_PER_STEP, as_bits, bits_of
from lorry_server.runner.compiled.own_rows_table import own_entry
from lorry_server.runner.compiled.packed_linear import PackedLinear
from lorry_server.runner.compiled.packed_results import pack_results
from lorry_server.runner.compiled.shrunk_rows import ShrunkRows

RANK_STEP = 4  # ranks that the shrink computes at once


class FloatPacker:
    """See `AdapterPacker`; of linears whose weights are `element`s."""

    def __init__(self, element: int) -> None:
        self._element = element

    def pack(
        self, linear: PackedLinear, slices: Sequence[MatchedSlice], memory: AdapterMemory
    ) -> Entry:
        entry = Entry()
        for one in slices:
            if one.weights is not None:
                self._pack_slice(linear, one, one.weights, entry, memory)
        pack_results(linear, slices, entry, memory)
        return entry

    def pack_own_rows(self, one: MatchedSlice, own_rows: OwnRows, memory: AdapterMemory) -> Entry:
        entry = own_entry(one, own_rows, memory)
        entry.point(t.OWN_W, memory.add(self._rows(own_rows.rows_KI, multiple=GROUP)))
        if one.weights is not None:
            b_KR = own_rows.of(one.weights.b_OR)
            entry.set(t.OWN_RANK, one.weights.rank)
            b = self._rows(b_KR, multiple=INPUTS_PER_STEP[self._element])
            entry.point(t.OWN_B, memory.add(b))
        return entry

    def shrunk_rows(self, arena: Arena, *, max_rows: int) -> ShrunkRows:
        value_bytes = ELEMENT_BYTES[self._element]
        return ShrunkRows(arena, max_rows=max_rows, value_bytes=value_bytes, has_scales=False)

    def _pack_slice(
        self,
        linear: PackedLinear,
        one: MatchedSlice,
        weights: LoraWeights,
        entry: Entry,
        memory: AdapterMemory,
    ) -> None:
        piece = linear.slice_starts.index(one.part.start)
        rank = weights.rank
        parts = linear.parts_of_slice(piece)
        first_panel = parts[0].panel
        moved = [
            Part(p.start - one.part.start, p.stop - one.part.start, p.panel - first_panel)
            for p in parts
        ]
        multiple = INPUTS_PER_STEP[self._element]
        panel_bytes = PANEL * ELEMENT_BYTES[self._element] * -(-rank // multiple) * multiple
        b = np.zeros(panel_bytes * num_panels(moved), np.uint8)
        b_OR = bits_of(weights.b_OR, self._element)
        pack_elements(b_OR, moved, as_bits(b, self._element), multiple=multiple)
        entry.set(t.LORA_RANK, rank, piece=piece)
        entry.point(t.LORA_A, memory.add(self._ranks(weights)), piece=piece)
        # the panels are counted from the linear's first
        entry.point(t.LORA_B, memory.add(b) - first_panel * panel_bytes, piece=piece)

    def _rows(self, rows_KI: torch.Tensor, *, multiple: int) -> npt.NDArray[np.uint8]:
        """Rows in panels; their inputs are filled up to `multiple`."""
        num_rows, num_inputs = rows_KI.shape
        width = -(-num_inputs // multiple) * multiple
        w = np.zeros(padded(num_rows) * width * ELEMENT_BYTES[self._element], np.uint8)
        bits_KI = bits_of(rows_KI, self._element)
        pack_elements(bits_KI, [Part(0, num_rows, 0)], as_bits(w, self._element), multiple=multiple)
        return w

    def _ranks(self, weights: LoraWeights) -> npt.NDArray[np.generic]:
        a_RI = bits_of(weights.a_RI, self._element)
        num_ranks, num_inputs = a_RI.shape
        num_filled = -(-num_ranks // RANK_STEP) * RANK_STEP
        rows = np.zeros((num_filled, padded(num_inputs)), a_RI.dtype)
        rows[:num_ranks, :num_inputs] = a_RI
        return rows
