"""Memory for weights, buffers and caches: zeroed, aligned to cache lines, in huge pages or not."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

REGION_BYTES = 64 << 20  # taken from the system at a time
ALIGNMENT = 64


class Arena:
    """Hands out zeroed arrays that live as long as the arena.

    Weights are streamed; in pages of 4 KiB the processor's prefetchers stop at each border, and
    one core reads 17 GB/s instead of 29. What is filled bit by bit, like the KV cache, is better
    off without huge pages: each would be taken whole at its first byte.
    """

    def __init__(self, *, huge_pages: bool = True) -> None:
        self._huge_pages = huge_pages
        self._regions: list[npt.NDArray[np.uint8]] = []
        self._used = 0

    def bytes(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """A zeroed array of bytes that begins on a cache line."""
        num_bytes = -(-num_bytes // ALIGNMENT) * ALIGNMENT
        if not self._regions or self._used + num_bytes > len(self._regions[-1]):
            self._regions.append(_region(max(num_bytes, REGION_BYTES), huge_pages=self._huge_pages))
            self._used = 0
        start = self._used
        self._used += num_bytes
        return self._regions[-1][start : start + num_bytes]

    def floats(self, count: int) -> npt.NDArray[np.float32]:
        return self.bytes(4 * count).view(np.float32)[:count]

    def ints(self, count: int) -> npt.NDArray[np.int32]:
        return self.bytes(4 * count).view(np.int32)[:count]

    def words(self, count: int) -> npt.NDArray[np.int64]:
        return self.bytes(8 * count).view(np.int64)[:count]


def own_memory(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that go back to the system when nothing refers to them."""
    return _region(num_bytes, huge_pages=True)


def address(array: npt.NDArray[np.generic]) -> int:
    """Where an array begins; the caller keeps it alive."""
    return int(array.ctypes.data)


def _region(num_bytes: int, *, huge_pages: bool) -> npt.NDArray[np.uint8]:
    # Private, because shared memory gets huge pages by another setting, which is off as a rule.
    mapped = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapped, dtype=np.uint8)
