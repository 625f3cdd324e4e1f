"""`FloatCache`: keys and values as float32 or bfloat16, laid out for the tiles of floats.

A block of one key head holds its tokens in runs of 16. Of float32 a run has keys as
`[head_dim][16]`, values as `[16][head_dim]`; of bfloat16 keys as `[head_dim / 2][16][2]`, values as
`[8][head_dim][2]`. Dimensions are filled up to 32.
"""

from __future__ import annotations

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import padded
from lorry_server.runner.compiled.elements import ELEMENT_BYTES
from lorry_server.runner.compiled.records import Field


def bytes_per_block(
    *, num_layers: int, num_kv_heads: int, head_dim: int, block_size: int, element: int
) -> int:
    """Keys and values of `block_size` tokens in every layer."""
    return num_layers * num_kv_heads * block_size * 2 * padded(head_dim) * ELEMENT_BYTES[element]


class FloatCache:
    """The memory of all layers, zeroed by the system as it is first touched."""

    keys_and_values, attend = t.FLOAT_KEYS_AND_VALUES, t.FLOAT_ATTEND
    query_bytes = 4  # of a dimension

    def __init__(
        self,
        arena: Arena,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        block_size: int,
        element: int,
    ) -> None:
        self.element = element
        num_bytes = num_kv_heads * num_blocks * block_size * padded(head_dim)
        num_bytes *= ELEMENT_BYTES[element]
        self._keys = [arena.bytes(num_bytes) for _ in range(num_layers)]
        self._values = [arena.bytes(num_bytes) for _ in range(num_layers)]

    def fields(self, layer: int) -> dict[int, Field]:
        return {
            t.KEYS: self._keys[layer],
            t.VALUES: self._values[layer],
            t.ELEMENT: self.element,
        }
