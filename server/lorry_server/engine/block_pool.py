"""`BlockPool`: which KV blocks are free, shared or cached, by counting references.

A block is in exactly one of three states: *used* (referenced by at least one block table),
*cached* (referenced by none, but its content is known by a hash and may be used again), or *free*
(referenced by none, content unknown). Cached blocks are given away, oldest first, only when no
free one is left. Of the free ones the last that came back goes first: memory that no block has needed
so far stays untouched, and the system never has to provide it. The pool holds block numbers, never
tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockPool:
    """Reference counts over `num_blocks` blocks and the index of those with known content.

    Content is named by a chained hash (see `engine.prefix_hash`): equal hashes mean equal tokens,
    equal position and equal adapter, so a hit never needs a second look.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._hash_of_block: list[bytes | None] = [None] * num_blocks
        self._block_of_hash: dict[bytes, int] = {}
        self._free = list(reversed(range(num_blocks)))  # a stack
        self._cached: OrderedDict[int, None] = OrderedDict()  # oldest first

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` could hand out now."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def match(self, hashes: Sequence[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix of `hashes`, without taking them."""
        blocks = []
        for block_hash in hashes:
            block = self._block_of_hash.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_available_without(self, blocks: Sequence[int]) -> int:
        """How many blocks could be allocated if `blocks` were shared first."""
        return self.num_available - sum(1 for block in blocks if block in self._cached)

    def share(self, blocks: Sequence[int]) -> None:
        """Add a reference to each of `blocks`, which `match` returned."""
        for block in blocks:
            self._cached.pop(block, None)
            self._ref_counts[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks with unknown content; the caller checked `num_available`."""
        assert count <= self.num_available
        blocks = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _ = self._cached.popitem(last=False)
                self._forget(block)
            assert self._ref_counts[block] == 0
            self._ref_counts[block] = 1
            blocks.append(block)
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference to each block of a table, given in the table's order."""
        # The tail of a prefix is worth less than its head, so it is to be given away first.
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0
            self._ref_counts[block] -= 1
            if self._ref_counts[block] > 0:
                continue
            if self._hash_of_block[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def remember(self, block: int, block_hash: bytes) -> None:
        """Record the content of a full, computed block.

        Two sequences may compute the same content at the same time; the first one is kept.
        """
        if block_hash not in self._block_of_hash and self._hash_of_block[block] is None:
            self._block_of_hash[block_hash] = block
            self._hash_of_block[block] = block_hash

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of_block[block]
        assert block_hash is not None
        del self._block_of_hash[block_hash]
        self._hash_of_block[block] = None

    def check_integrity(self) -> None:
        """Assert that every block is in exactly one state and every hash points back."""
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a block is twice in the free list"
        assert not free & cached, "a block is free and cached"
        for block in range(self.num_blocks):
            is_idle = block in free or block in cached
            assert (self._ref_counts[block] == 0) == is_idle, f"block {block} is miscounted"
            block_hash = self._hash_of_block[block]
            if block_hash is None:
                assert block not in cached, f"block {block} is cached without a hash"
            else:
                assert self._block_of_hash[block_hash] == block
        assert len(self._block_of_hash) == sum(h is not None for h in self._hash_of_block)
