"""`AdapterMemory`: the arrays of one adapter, one after the other in one piece of memory.

And `Entry`: what the compiled code reads of an adapter for one linear, while it is not yet known
where that memory lies.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import ALIGNMENT, own_memory

ENTRY_WORDS = t.LORA_ENTRY_BYTES // t.WORD_BYTES


class AdapterMemory:
    """Gathers arrays, then lays them down."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._arrays: list[tuple[int, npt.NDArray[np.generic]]] = []

    def add(self, array: npt.NDArray[np.generic]) -> int:
        """Take an array, which lies in one piece; return at which byte it will begin."""
        start = self.num_bytes
        self._arrays.append((start, array))
        self.num_bytes += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        return start

    def lay(self) -> npt.NDArray[np.uint8]:
        """All arrays in memory of their own, which is free when nothing refers to it."""
        if not self._arrays:
            return np.zeros(0, np.uint8)  # an adapter of the embedding alone
        memory = own_memory(self.num_bytes)
        for start, array in self._arrays:
            memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        return memory


class Entry:
    """The words of one adapter and linear; some of them are places in an `AdapterMemory`."""

    def __init__(self, num_words: int = ENTRY_WORDS) -> None:
        self._words = np.zeros(num_words, np.int64)
        self._is_place = np.zeros(num_words, np.bool_)

    def set(self, offset: int, value: int, *, piece: int = 0) -> None:
        """Set the word at byte `offset` of slice `piece`'s part."""
        self._words[self._word(offset, piece)] = value

    def point(self, offset: int, place: int, *, piece: int = 0) -> None:
        """The same for the address of what `AdapterMemory.add` has put at `place`."""
        word = self._word(offset, piece)
        self._words[word] = place
        self._is_place[word] = True

    def at(self, start: int) -> npt.NDArray[np.int64]:
        """The words, once the memory begins at the address `start`."""
        return self._words + self._is_place * np.int64(start)

    def _word(self, offset: int, piece: int) -> int:
        return offset // t.WORD_BYTES + piece * t.SLICE_WORDS
