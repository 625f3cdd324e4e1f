"""Int4 weights: half a byte each, with a scale and a zero point for every 32 inputs of a row.

    W[n, k] = scale[n, k // 32] * (q[n, k] - zero[n, k // 32])      q and zero are in 0..15

The head, and with it a tied embedding, stays int8: its errors go straight into the logits.

Shape legend: T tokens, I input features, O output features, R rows being loaded, G groups of 32
inputs, J inputs of a group, B bytes of a group (16).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lorry_server.kernels.affine_matmul import GROUP, in_groups, multiply_groups
from lorry_server.quantization.affine_rows import CHUNK_ELEMENTS
from lorry_server.quantization.int8 import Int8
from lorry_server.quantization.scheme import Weight

LARGEST_NIBBLE = 15
NUM_GROUP_BYTES = GROUP // 2


class Int4Weight(Weight):
    """Two weights a byte: input b of a group in the low half of byte b, b + 16 in the high half."""

    packed_GOB: Tensor
    scale_GO: Tensor
    zero_GO: Tensor

    def __init__(
        self, out_features: int, *, in_features: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.out_features = out_features
        self.in_features = in_features
        self._dtype = dtype
        shape = (-(-in_features // GROUP), out_features)
        self.register_buffer(
            "packed_GOB", torch.zeros((*shape, NUM_GROUP_BYTES), dtype=torch.uint8, device=device)
        )
        self.register_buffer("scale_GO", torch.ones(shape, device=device))
        self.register_buffer("zero_GO", torch.zeros(shape, dtype=torch.int8, device=device))

    @property
    def q_OI(self) -> Tensor:
        """The unsigned integers, with the columns padded to whole groups (a new tensor)."""
        return _unpacked(self.packed_GOB).transpose(0, 1).flatten(1).view(torch.uint8)

    @property
    def scale_OG(self) -> Tensor:
        """Float32."""
        return self.scale_GO.t()

    @property
    def zero_OG(self) -> Tensor:
        """Int8, in 0..15."""
        return self.zero_GO.t()

    def load_rows_(self, start: int, w_RI: Tensor) -> None:
        for chunk_RI in torch.split(w_RI, max(1, CHUNK_ELEMENTS // self.in_features)):
            rows = slice(start, start + len(chunk_RI))
            self._load_chunk_(rows, in_groups(chunk_RI.to(self.scale_GO)).transpose(0, 1))
            start = rows.stop

    def _load_chunk_(self, rows: slice, w_GRJ: Tensor) -> None:
        # Zero is always within the range, so that it has an integer, and padding costs nothing.
        smallest_GR, largest_GR = w_GRJ.aminmax(dim=2)
        smallest_GR, largest_GR = smallest_GR.clamp(max=0), largest_GR.clamp(min=0)
        scale_GR = (largest_GR - smallest_GR) / LARGEST_NIBBLE
        scale_GR = torch.where(scale_GR > 0, scale_GR, 1.0)  # a group of zeros stays zeros
        zero_GR = (-smallest_GR / scale_GR).round_().clamp_(0, LARGEST_NIBBLE)
        q_GRJ = (w_GRJ / scale_GR[:, :, None]).round_().add_(zero_GR[:, :, None])
        q_GRJ = q_GRJ.clamp_(0, LARGEST_NIBBLE).to(torch.uint8)
        low_GRB, high_GRB = q_GRJ[:, :, :NUM_GROUP_BYTES], q_GRJ[:, :, NUM_GROUP_BYTES:]
        self.packed_GOB[:, rows] = low_GRB | (high_GRB << 4)
        self.scale_GO[:, rows] = scale_GR
        self.zero_GO[:, rows] = zero_GR.to(torch.int8)

    def matmul(self, x_TI: Tensor) -> Tensor:
        return multiply_groups(x_TI, self._each_group(), self.scale_GO)

    def rows(self, ids_T: Tensor) -> Tensor:
        return self._floats(
            self.packed_GOB[:, ids_T], self.scale_GO[:, ids_T], self.zero_GO[:, ids_T]
        )

    def dequantize(self) -> Tensor:
        return self._floats(self.packed_GOB, self.scale_GO, self.zero_GO)

    def _each_group(self) -> Iterator[Tensor]:
        """`q - zero` of one group after the other, so that only one is ever unpacked."""
        for packed_OB, zero_O in zip(self.packed_GOB, self.zero_GO, strict=True):
            yield _unpacked(packed_OB).sub_(zero_O[:, None])

    def _floats(self, packed_GRB: Tensor, scale_GR: Tensor, zero_GR: Tensor) -> Tensor:
        w_GRJ = _unpacked(packed_GRB).sub_(zero_GR[:, :, None])
        w_RI = (w_GRJ.float() * scale_GR[:, :, None]).transpose(0, 1).flatten(1)
        return w_RI[:, : self.in_features].to(self._dtype)


class Int4:
    """The scheme named "int4"."""

    def create(
        self,
        out_features: int,
        *,
        in_features: int,
        is_head: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Weight:
        if is_head:
            return Int8().create(
                out_features, in_features=in_features, is_head=True, dtype=dtype, device=device
            )
        return Int4Weight(out_features, in_features=in_features, dtype=dtype, device=device)


def _unpacked(packed_B: Tensor) -> Tensor:
    """int8 in 0..15; the last dimension doubles."""
    return torch.cat((packed_B & 15, packed_B >> 4), dim=-1).view(torch.int8)
