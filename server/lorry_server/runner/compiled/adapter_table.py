"""`AdapterTable`: the adapters of a model where the compiled code finds them, by linear and number.

Each linear has a row of entries, one for each adapter number. An adapter that does not target a
slice of the linear has rank 0 there and costs nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorry_server.engine.plan import AdapterSegments, Int32
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena, address
from lorry_server.kernels.cpu.pack import GROUP, PANEL, Part, num_panels, pack_bytes, padded, spread
from lorry_server.lora.int8_updates import Int8Update, Int8Updates
from lorry_server.lora.pool import AdapterPool
from lorry_server.quantization.int8 import Int8Weight
from lorry_server.runner.compiled.adapter_numbers import AdapterNumbers
from lorry_server.runner.compiled.packed_linear import PackedLinear
from lorry_server.runner.compiled.records import Field

RANK_STEP = 4  # ranks that one instruction multiplies
NARROW = 16  # columns of a half panel
ENTRY_WORDS = t.LORA_ENTRY_BYTES // t.WORD_BYTES


class AdapterTable:
    """Entries for the adapters of `pool`, whose linears are all quantized."""

    def __init__(self, pool: AdapterPool, arena: Arena, *, max_rows: int) -> None:
        self._updates: dict[str, Int8Updates] = {}
        self._numbers = AdapterNumbers()
        max_rank = 1
        for name, updates in pool.updates.items():
            assert isinstance(updates, Int8Updates)
            self._updates[name] = updates
            for start, of_adapter in updates.by_start.items():
                self._numbers.add(start)
                max_rank = max(max_rank, *(update.a.out_features for update in of_adapter))
        self._groups = padded(max_rank) // GROUP
        shrunk = max_rows * t.MAX_SLICES * self._groups
        self._shrunk = arena.bytes(GROUP * shrunk)
        self._shrunk_scale = arena.floats(shrunk)
        self._shrunk_start = arena.ints(shrunk)
        self._arena = arena

    def fields(self, linear: PackedLinear) -> dict[int, Field]:
        """What a record needs to apply adapters to a linear; empty where none targets it."""
        updates = self._updates.get(linear.name)
        if updates is None:
            return {}
        entries = self._arena.words(len(self._numbers) * ENTRY_WORDS).reshape(-1, ENTRY_WORDS)
        for start, of_adapter in updates.by_start.items():
            self._write(linear, entries[self._numbers[start]], of_adapter)
        return {
            t.LORA: entries,
            t.LORA_XQ: self._shrunk,
            t.LORA_LD_XQ: GROUP * self._groups * linear.num_slices,
            t.LORA_SCALE: self._shrunk_scale,
            t.LORA_START: self._shrunk_start,
            t.LORA_GROUPS: self._groups,
            t.NUM_SLICES: linear.num_slices,
        }

    def numbers(self, segments: AdapterSegments, num_tokens: int) -> Int32 | None:
        """See `AdapterNumbers.of_tokens`."""
        return self._numbers.of_tokens(segments, num_tokens)

    def _write(
        self, linear: PackedLinear, entry: npt.NDArray[np.int64], updates: tuple[Int8Update, ...]
    ) -> None:
        scale = self._arena.floats(linear.num_outputs)
        entry[t.LORA_B_SCALE // t.WORD_BYTES] = address(scale)
        for update in updates:
            index = linear.slice_starts.index(update.part.start)
            rank = update.a.out_features
            parts = linear.parts_of_slice(index)
            first_panel = parts[0].panel
            words = entry[index * t.SLICE_WORDS : (index + 1) * t.SLICE_WORDS]
            words[t.LORA_RANK // t.WORD_BYTES] = rank
            words[t.LORA_A // t.WORD_BYTES] = address(self._pack_a(update.a))
            words[t.LORA_A_SCALE // t.WORD_BYTES] = address(self._padded_scale(update.a))
            steps = -(-rank // RANK_STEP)
            b = self._arena.bytes((num_panels(parts) - first_panel) * steps * RANK_STEP * PANEL)
            moved = [
                Part(p.start - update.part.start, p.stop - update.part.start, p.panel - first_panel)
                for p in parts
            ]
            pack_bytes(update.b.q_OI.numpy(), moved, b, multiple=RANK_STEP)
            # the panels are counted from the linear's first
            words[t.LORA_B // t.WORD_BYTES] = address(b) - first_panel * steps * RANK_STEP * PANEL
            spread(update.b.scale_O.numpy(), moved, scale[PANEL * first_panel :])

    def _pack_a(self, a: Int8Weight) -> npt.NDArray[np.uint8]:
        """Panels of 32 ranks; of 16 at the end where that is enough."""
        rank, q_RI = a.out_features, a.q_OI.numpy()
        whole = rank // PANEL * PANEL
        rest = rank - whole
        if rest > NARROW:
            whole, rest = rank, 0
        width = padded(a.in_features)
        packed = self._arena.bytes((padded(whole) + (NARROW if rest else 0)) * width)
        if whole:
            pack_bytes(q_RI, [Part(0, whole, 0)], packed[: padded(whole) * width])
        if rest:
            q_NI = np.full((NARROW, width), 128, np.uint8)
            q_NI[:rest, : a.in_features] = q_RI[whole:]
            lines = q_NI.reshape(NARROW, width // 4, 4).transpose(1, 0, 2)
            packed[padded(whole) * width :][: NARROW * width] = lines.reshape(-1)
        return packed

    def _padded_scale(self, a: Int8Weight) -> npt.NDArray[np.float32]:
        scale = self._arena.floats(padded(a.out_features))
        scale[: a.out_features] = a.scale_O.numpy()
        return scale
