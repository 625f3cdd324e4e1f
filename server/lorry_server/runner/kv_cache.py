"""`KVCache`: the tensors behind the blocks, and how many blocks a budget of bytes holds."""

from __future__ import annotations

import torch


def bytes_per_block(
    *, num_layers: int, num_kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype
) -> int:
    """Keys and values of `block_size` tokens in every layer."""
    return 2 * num_layers * num_kv_heads * head_dim * block_size * dtype.itemsize


class KVCache:
    """Keys and values of every layer, `[num_kv_heads, num_blocks * block_size, head_dim]` each.

    Heads come first so that gathering the slots of one sequence yields one dense matrix per head.
    The memory is taken at once; a cache that does not fit fails at start and not under load.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, num_kv_heads, num_blocks * block_size, head_dim)
        self.block_size = block_size
        self.k_LKCH = torch.zeros(shape, dtype=dtype, device=device)
        self.v_LKCH = torch.zeros(shape, dtype=dtype, device=device)
