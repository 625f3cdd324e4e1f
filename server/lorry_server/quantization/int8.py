"""Int8 weights with one scale for each row, multiplied with activations of two bytes.

The form is affine, `W[n, k] = scale[n] * (q[n, k] - zero[n])` with `q` unsigned and zero 128;
what is held is `q - 128`, as signed bytes. `kernels.int8_matmul` says what a product is.

Shape legend: T tokens, I input features, O output features, R rows being loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.kernels.int8_matmul import ZERO, symmetric_int8_matmul
from lorry_server.quantization.scheme import Weight

CHUNK_ELEMENTS = 1 << 22  # of float32 in flight while a weight is loaded


class Int8Weight(Weight):
    """A matrix of signed bytes, symmetric for each row; the largest value of a row becomes 127."""

    w_OI: Tensor
    scale_O: Tensor
    offset_O: Tensor

    def __init__(
        self, out_features: int, *, in_features: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.out_features = out_features
        self.in_features = in_features
        self._dtype = dtype
        self.register_buffer(
            "w_OI", torch.empty((out_features, in_features), dtype=torch.int8, device=device)
        )
        self.register_buffer(
            "scale_O", torch.empty(out_features, dtype=torch.float32, device=device)
        )
        self.register_buffer(
            "offset_O", torch.empty(out_features, dtype=torch.int32, device=device)
        )

    @property
    def q_OI(self) -> Tensor:
        """The unsigned bytes of the affine form (a new tensor)."""
        return (self.w_OI ^ -128).view(torch.uint8)

    @property
    def zero_O(self) -> Tensor:
        """The zero points of the affine form, int32."""
        return torch.full_like(self.offset_O, ZERO)

    def load_rows_(self, start: int, w_RI: Tensor) -> None:
        for chunk_RI in torch.split(w_RI, max(1, CHUNK_ELEMENTS // self.in_features)):
            stop = start + len(chunk_RI)
            self._load_chunk_(slice(start, stop), chunk_RI)
            start = stop

    def _load_chunk_(self, rows: slice, w_RI: Tensor) -> None:
        w_RI = w_RI.to(device=self.w_OI.device, dtype=torch.float32, copy=True)
        smallest_R, largest_R = w_RI.aminmax(dim=1)
        scale_R = torch.maximum(largest_R, -smallest_R) / 127.0
        divisor_R = torch.where(scale_R > 0, scale_R, 1.0)  # a row of zeros stays zeros
        w_RI.div_(divisor_R[:, None]).round_()
        self.w_OI[rows] = w_RI
        self.scale_O[rows] = scale_R
        self.offset_O[rows] = w_RI.sum(dim=1).mul_(ZERO)  # integers that float32 holds exactly

    def matmul(self, x_TI: Tensor) -> Tensor:
        return symmetric_int8_matmul(x_TI, self.w_OI, self.scale_O, self.offset_O)

    def rows(self, ids_T: Tensor) -> Tensor:
        return (self.w_OI[ids_T].float() * self.scale_O[ids_T][:, None]).to(self._dtype)

    def dequantize(self) -> Tensor:
        return (self.w_OI.float() * self.scale_O[:, None]).to(self._dtype)


class Int8:
    """The scheme named "int8"."""

    def create(
        self, out_features: int, *, in_features: int, dtype: torch.dtype, device: torch.device
    ) -> Int8Weight:
        return Int8Weight(out_features, in_features=in_features, dtype=dtype, device=device)
