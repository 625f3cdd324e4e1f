"""`AdapterSlots`: where each adapter's rank rows are, and who uses it. No torch.

The device holds, for every linear layer, one pool of rank rows (S-LoRA, arXiv 2311.03285, stores
adapters by rank row; here the pools are separate from the KV cache because grouped-query
attention makes their row sizes differ). An adapter of rank r owns the same r consecutive rows in
every pool, so unlike ranks cost exactly their own size and nothing is padded to a maximum.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows `start` to `start + rank` of every pool."""

    start: int
    rank: int


class AdapterSlots:
    """A first-fit allocator of row ranges, with a count of pins per adapter digest.

    A pinned adapter is used by an accepted request and may not be removed.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._ranges: dict[str, RowRange] = {}
        self._pins: dict[str, int] = {}

    @property
    def num_pins(self) -> int:
        return sum(self._pins.values())

    @property
    def num_free_rows(self) -> int:
        return self.num_rows - sum(r.rank for r in self._ranges.values())

    def __contains__(self, digest: str) -> bool:
        return digest in self._ranges

    def rows(self, digest: str) -> RowRange:
        """Where a resident adapter is; KeyError for one that is not."""
        return self._ranges[digest]

    def place(self, digest: str, *, rank: int) -> RowRange | None:
        """Give an adapter `rank` consecutive rows, or return None where no gap is long enough."""
        assert digest not in self._ranges
        start = 0
        for taken in sorted(self._ranges.values(), key=lambda taken: taken.start):
            if taken.start - start >= rank:
                break
            start = taken.start + taken.rank
        if start + rank > self.num_rows:
            return None
        self._ranges[digest] = RowRange(start, rank)
        self._pins[digest] = 0
        return self._ranges[digest]

    def remove(self, digest: str) -> None:
        """Free an unpinned adapter's rows."""
        assert self._pins[digest] == 0, "a pinned adapter cannot be removed"
        del self._ranges[digest]
        del self._pins[digest]

    def pin(self, digest: str) -> None:
        self._pins[digest] += 1

    def unpin(self, digest: str) -> None:
        assert self._pins[digest] > 0
        self._pins[digest] -= 1
