"""`ByteCache`: keys and values as int8, laid out for the attention tiles.

A block of one key head holds, for its tokens, keys as `[16-token run][head_dim / 4][16][4]` unsigned
bytes, values as `[4-token run][head_dim][4]` signed bytes, and a float32 scale for each token of both.
"""

from __future__ import annotations

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import padded
from lorry_server.runner.compiled.records import Field


def bytes_per_block(*, num_layers: int, num_kv_heads: int, head_dim: int, block_size: int) -> int:
    """Keys, values and scales of `block_size` tokens in every layer."""
    return num_layers * num_kv_heads * block_size * 2 * (padded(head_dim) + 4)


class ByteCache:
    """The memory of all layers, zeroed by the system as it is first touched."""

    keys_and_values, attend = t.KEYS_AND_VALUES, t.ATTEND
    query_bytes = 1  # of a dimension

    def __init__(
        self,
        arena: Arena,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        block_size: int,
    ) -> None:
        self.block_size = block_size
        slots = num_kv_heads * num_blocks * block_size
        self._keys = [arena.bytes(slots * padded(head_dim)) for _ in range(num_layers)]
        self._values = [arena.bytes(slots * padded(head_dim)) for _ in range(num_layers)]
        self._key_scales = [arena.floats(slots) for _ in range(num_layers)]
        self._value_scales = [arena.floats(slots) for _ in range(num_layers)]

    def fields(self, layer: int) -> dict[int, Field]:
        return {
            t.KEYS: self._keys[layer],
            t.KEY_SCALES: self._key_scales[layer],
            t.VALUES: self._values[layer],
            t.VALUE_SCALES: self._value_scales[layer],
        }
