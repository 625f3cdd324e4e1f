"""The compiled runner's KV cache: bytes or floats, by the dtype that was asked for."""

from __future__ import annotations

import torch

from lorry_server.kernels.cpu.memory import Arena
from lorry_server.model.decoder import Decoder
from lorry_server.runner.compiled import byte_cache, float_cache
from lorry_server.runner.compiled.byte_cache import ByteCache
from lorry_server.runner.compiled.elements import ELEMENTS
from lorry_server.runner.compiled.float_cache import FloatCache

KV_DTYPES = frozenset({torch.int8, *ELEMENTS})
RUN = 16  # tokens that lie together; a block is a multiple of it


def bytes_per_block(
    *, num_layers: int, num_kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype
) -> int:
    """Keys and values of `block_size` tokens in every layer, with the scales of int8."""
    shape = {
        "num_layers": num_layers,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "block_size": block_size,
    }
    if dtype == torch.int8:
        return byte_cache.bytes_per_block(**shape)
    return float_cache.bytes_per_block(**shape, element=ELEMENTS[dtype])


def make_cache(
    decoder: Decoder, arena: Arena, *, dtype: torch.dtype, num_blocks: int, block_size: int
) -> ByteCache | FloatCache:
    """The cache of all layers of a decoder; `dtype` is one of `KV_DTYPES`."""
    assert block_size % RUN == 0
    shape = {
        "num_layers": decoder.num_layers,
        "num_kv_heads": decoder.num_kv_heads,
        "head_dim": decoder.head_dim,
        "num_blocks": num_blocks,
        "block_size": block_size,
    }
    if dtype == torch.int8:
        return ByteCache(arena, **shape)
    return FloatCache(arena, **shape, element=ELEMENTS[dtype])
