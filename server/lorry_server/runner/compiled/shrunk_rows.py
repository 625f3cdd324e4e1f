"""`ShrunkRows`: where a step's rows lie between A and B, as wide as the largest rank so far."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena, address, own_memory
from lorry_server.kernels.cpu.pack import GROUP, padded


class ShrunkRows:
    """Rows of `value_bytes` a rank; with `has_scales`, a scale and a start for each group of 32.

    Records point to `block`, so the rows may move between two steps, and no record changes.
    """

    def __init__(self, arena: Arena, *, max_rows: int, value_bytes: int, has_scales: bool) -> None:
        self.block = arena.words(t.SHRUNK_WORDS)
        self._max_rows = max_rows
        self._value_bytes = value_bytes
        self._has_scales = has_scales
        self._num_groups = 0
        self._kept: list[npt.NDArray[np.uint8]] = []
        self.hold(1)

    def hold(self, rank: int) -> None:
        """Make room for an adapter of `rank`; between steps."""
        num_groups = padded(rank) // GROUP
        if num_groups <= self._num_groups:
            return
        self._num_groups = num_groups
        # and one row more, which a tile may read
        count = (self._max_rows + 1) * t.MAX_SLICES * num_groups
        sizes = {t.SHRUNK_XQ: GROUP * self._value_bytes * count}
        if self._has_scales:
            sizes |= {t.SHRUNK_SCALE: 4 * count, t.SHRUNK_START: 4 * count}
        self._kept = [own_memory(size) for size in sizes.values()]
        for offset, memory in zip(sizes, self._kept, strict=True):
            self.block[offset // t.WORD_BYTES] = address(memory)
        self.block[t.SHRUNK_GROUPS // t.WORD_BYTES] = num_groups
