"""`KVCache`: the tensors behind the blocks, and how many blocks a budget of bytes holds."""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.kernels.int8_attention import TOKEN_GROUP, Int8Slots, int8_attention
from lorry_server.kernels.paged_attention import QueryGroup, paged_attention, write_kv


def bytes_per_block(
    *, num_layers: int, num_kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype
) -> int:
    """Keys and values of `block_size` tokens in every layer, with the scales of int8."""
    head_bytes = head_dim * dtype.itemsize
    if dtype == torch.int8:
        head_bytes += torch.float32.itemsize
    return 2 * num_layers * num_kv_heads * head_bytes * block_size


class KVCache:
    """Keys and values of every layer, `[num_kv_heads, num_blocks * block_size, head_dim]` each.

    Heads come first so that gathering the slots of one sequence yields one dense matrix per head.
    With `dtype` int8 there is a float32 scale for each token and head, `[num_kv_heads, slots]`.
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
        self.dtype = dtype
        self.k_LKCH = torch.zeros(shape, dtype=dtype, device=device)
        self.v_LKCH = torch.zeros(shape, dtype=dtype, device=device)
        scales = shape[:3] if dtype == torch.int8 else (num_layers, 0)
        self.k_scale_LKC = torch.zeros(scales, dtype=torch.float32, device=device)
        self.v_scale_LKC = torch.zeros(scales, dtype=torch.float32, device=device)

    @property
    def context_multiple(self) -> int:
        """What the contexts of `QueryGroup`s must be rounded up to for `attend`."""
        return TOKEN_GROUP if self.dtype == torch.int8 else 1

    def write(self, layer: int, k_TKH: Tensor, v_TKH: Tensor, slots_T: Tensor) -> None:
        """Store a step's keys and values of one layer."""
        if self.dtype == torch.int8:
            self._keys(layer).write(k_TKH, slots_T)
            self._values(layer).write(v_TKH, slots_T)
        else:
            write_kv(k_TKH, v_TKH, self.k_LKCH[layer], self.v_LKCH[layer], slots_T)

    def attend(
        self,
        layer: int,
        q_TNH: Tensor,
        groups: list[QueryGroup],
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """See `kernels.paged_attention.paged_attention`."""
        if self.dtype == torch.int8:
            return int8_attention(
                q_TNH,
                self._keys(layer),
                self._values(layer),
                groups,
                scale=scale,
                window=window,
                softcap=softcap,
            )
        return paged_attention(
            q_TNH,
            self.k_LKCH[layer],
            self.v_LKCH[layer],
            groups,
            scale=scale,
            window=window,
            softcap=softcap,
        )

    def _keys(self, layer: int) -> Int8Slots:
        return Int8Slots(self.k_LKCH[layer], self.k_scale_LKC[layer])

    def _values(self, layer: int) -> Int8Slots:
        return Int8Slots(self.v_LKCH[layer], self.v_scale_LKC[layer])
