"""`Int8Packer`: adapters of quantized weights as bytes, in the order in which the tiles read them.

A lies in panels of 32 ranks, or of 16 at the end where that is enough; B in panels like the weight
that it is added to, its ranks filled up to a multiple of four.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import (
    GROUP,
    PANEL,
    Part,
    num_panels,
    pack_bytes,
    padded,
    spread,
)
from lorry_server.lora.int8_updates import Int8Update, int8_update
from lorry_server.lora.matched import MatchedSlice, OwnRows
from lorry_server.lora.own_rows_updates import int8_rows
from lorry_server.quantization.int8 import Int8Weight
from lorry_server.runner.compiled.adapter_memory import AdapterMemory, Entry
from lorry_server.runner.compiled.own_rows_table import own_entry
from lorry_server.runner.compiled.packed_linear import PackedLinear
from lorry_server.runner.compiled.packed_results import pack_results
from lorry_server.runner.compiled.shrunk_rows import ShrunkRows

RANK_STEP = 4  # ranks that one instruction multiplies
NARROW = 16  # columns of a half panel


class Int8Packer:
    """See `AdapterPacker`. It quantizes as the reference does, so the bits are the same."""

    def pack(
        self, linear: PackedLinear, slices: Sequence[MatchedSlice], memory: AdapterMemory
    ) -> Entry:
        entry = Entry()
        b_scale = np.zeros(linear.num_outputs, np.float32)  # which all slices share
        for one in slices:
            if one.weights is not None:
                update = int8_update(one.part, one.weights)
                self._pack_slice(linear, update, entry, b_scale, memory)
        entry.point(t.LORA_B_SCALE, memory.add(b_scale))
        pack_results(linear, slices, entry, memory)
        return entry

    def pack_own_rows(self, one: MatchedSlice, own_rows: OwnRows, memory: AdapterMemory) -> Entry:
        entry = own_entry(one, own_rows, memory)
        _pack_rows(entry, (t.OWN_W, t.OWN_SCALE), int8_rows(own_rows.rows_KI), memory)
        if one.weights is not None:
            b = int8_rows(own_rows.of(one.weights.b_OR))
            entry.set(t.OWN_RANK, one.weights.rank)
            _pack_rows(entry, (t.OWN_B, t.OWN_B_SCALE), b, memory, multiple=RANK_STEP)
        return entry

    def shrunk_rows(self, arena: Arena, *, max_rows: int) -> ShrunkRows:
        return ShrunkRows(arena, max_rows=max_rows, value_bytes=1, has_scales=True)

    def _pack_slice(
        self,
        linear: PackedLinear,
        update: Int8Update,
        entry: Entry,
        b_scale: npt.NDArray[np.float32],
        memory: AdapterMemory,
    ) -> None:
        piece = linear.slice_starts.index(update.part.start)
        rank = update.a.out_features
        parts = linear.parts_of_slice(piece)
        first_panel = parts[0].panel
        entry.set(t.LORA_RANK, rank, piece=piece)
        entry.point(t.LORA_A, memory.add(packed_a(update.a)), piece=piece)
        a_scale = np.zeros(padded(rank), np.float32)
        a_scale[:rank] = update.a.scale_O.numpy()
        entry.point(t.LORA_A_SCALE, memory.add(a_scale), piece=piece)
        panel_bytes = -(-rank // RANK_STEP) * RANK_STEP * PANEL
        moved = [
            Part(p.start - update.part.start, p.stop - update.part.start, p.panel - first_panel)
            for p in parts
        ]
        b = np.zeros(num_panels(moved) * panel_bytes, np.uint8)
        pack_bytes(update.b.q_OI.numpy(), moved, b, multiple=RANK_STEP)
        spread(update.b.scale_O.numpy(), moved, b_scale[PANEL * first_panel :])
        # the panels are counted from the linear's first
        entry.point(t.LORA_B, memory.add(b) - first_panel * panel_bytes, piece=piece)


def _pack_rows(
    entry: Entry,
    offsets: tuple[int, int],
    weight: Int8Weight,
    memory: AdapterMemory,
    *,
    multiple: int = GROUP,
) -> None:
    """Put rows and their scales into `memory`, and where they are into the entry's two words."""
    part = Part(0, weight.out_features, 0)
    num_inputs = -(-weight.in_features // multiple) * multiple
    w = np.zeros(padded(weight.out_features) * num_inputs, np.uint8)
    pack_bytes(weight.q_OI.numpy(), [part], w, multiple=multiple)
    scale = np.zeros(padded(weight.out_features), np.float32)
    spread(weight.scale_O.numpy(), [part], scale)
    entry.point(offsets[0], memory.add(w))
    entry.point(offsets[1], memory.add(scale))


def packed_a(a: Int8Weight) -> npt.NDArray[np.uint8]:
    """Panels of 32 ranks; of 16 at the end where that is enough."""
    rank, q_RI = a.out_features, a.q_OI.numpy()
    whole = rank // PANEL * PANEL
    rest = rank - whole
    if rest > NARROW:
        whole, rest = rank, 0
    width = padded(a.in_features)
    packed = np.zeros((padded(whole) + (NARROW if rest else 0)) * width, np.uint8)
    if whole:
        pack_bytes(q_RI, [Part(0, whole, 0)], packed[: padded(whole) * width])
    if rest:
        q_NI = np.full((NARROW, width), 128, np.uint8)
        q_NI[:rest, : a.in_features] = q_RI[whole:]
        lines = q_NI.reshape(NARROW, width // 4, 4).transpose(1, 0, 2)
        packed[padded(whole) * width :] = lines.reshape(-1)
    return packed
