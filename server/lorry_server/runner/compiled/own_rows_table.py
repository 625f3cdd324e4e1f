"""`OwnRowsTable`: rows of the head that adapters bring themselves, by slot.

What each of these rows makes of a token stands in place of what the head's own row makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import PANEL, padded
from lorry_server.lora.matched import MatchedSlice, OwnRows
from lorry_server.runner.compiled.adapter_memory import AdapterMemory, Entry
from lorry_server.runner.compiled.records import Field

OWN_WORDS = t.OWN_ENTRY_BYTES // t.WORD_BYTES


def own_entry(one: MatchedSlice, own_rows: OwnRows, memory: AdapterMemory) -> Entry:
    """An entry that lacks the packed rows, LoRA beside them, and the scales of both."""
    num_rows = len(own_rows.rows_KI)
    entry = Entry(OWN_WORDS)
    entry.set(t.OWN_NUM_PANELS, padded(num_rows) // PANEL)
    entry.set(t.OWN_NUM_IDS, num_rows)
    if own_rows.ids_K is not None:
        entry.point(t.OWN_IDS, memory.add(own_rows.ids_K.numpy().astype(np.int32)))
    if one.results is not None:
        for offset, values_O in (
            (t.OWN_RESULT_SCALE, one.results.scale_O),
            (t.OWN_RESULT_SHIFT, one.results.shift_O),
        ):
            values = np.zeros(padded(num_rows), np.float32)
            values[:num_rows] = own_rows.of(values_O).numpy()
            entry.point(offset, memory.add(values))
    return entry


class OwnRowsTable:
    """Entries of all slots, zeros where an adapter has no such rows."""

    def __init__(self, arena: Arena, *, max_slots: int) -> None:
        self._entries = arena.words(max_slots * OWN_WORDS).reshape(max_slots, OWN_WORDS)
        self._most_panels = arena.words(1)

    def fields(self) -> dict[int, Field]:
        """What the record of the operation needs."""
        return {t.OWN_TABLE: self._entries, t.OWN_PANELS: self._most_panels}

    def attach(self, slot: int, entry: npt.NDArray[np.int64] | None) -> None:
        if entry is not None:
            self._entries[slot] = entry

    def detach(self, slot: int) -> None:
        self._entries[slot] = 0

    def activate(self, slots: Sequence[int]) -> None:
        """Have the next steps compute as many panels as the largest of these adapters has."""
        self._most_panels[0] = self._entries[list(slots), t.OWN_NUM_PANELS // t.WORD_BYTES].max()
