"""`pack_results`: the factors and shifts of an adapter's results, where the tiles read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.pack import PANEL, Part, spread
from lorry_server.lora.matched import MatchedSlice
from lorry_server.runner.compiled.adapter_memory import AdapterMemory, Entry
from lorry_server.runner.compiled.packed_linear import PackedLinear


def pack_results(
    linear: PackedLinear, slices: Sequence[MatchedSlice], entry: Entry, memory: AdapterMemory
) -> None:
    """All slices share them; those that have none are multiplied by one and get zero added.

    An adapter that changes no results of the linear has no such arrays, and its rows pay nothing.
    """
    if all(one.results is None for one in slices):
        return
    scale = np.ones(linear.num_outputs, np.float32)
    shift = np.zeros(linear.num_outputs, np.float32)
    for one in slices:
        if one.results is None:
            continue
        parts = linear.parts_of_slice(linear.slice_starts.index(one.part.start))
        first = parts[0].panel
        moved = [
            Part(p.start - one.part.start, p.stop - one.part.start, p.panel - first) for p in parts
        ]
        spread(one.results.scale_O.numpy(), moved, scale[PANEL * first :])
        spread(one.results.shift_O.numpy(), moved, shift[PANEL * first :])
    entry.point(t.LORA_RESULT_SCALE, memory.add(scale))
    entry.point(t.LORA_RESULT_SHIFT, memory.add(shift))
