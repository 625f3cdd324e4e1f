"""Weights of one byte with a scale and a zero point for each row: what int8 and zero-one hold.

    W[n, k] = scale[n] * (q[n, k] - zero[n])

`kernels.affine_matmul` says what a product is.

Shape legend: T tokens, I input features, O output features, R rows being loaded, G groups of 32
inputs, J inputs of a group.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lorry_server.kernels.affine_matmul import (
    GROUP,
    MIDDLE,
    in_groups,
    multiply_rows,
    signed,
    unsigned,
)
from lorry_server.quantization.scheme import Weight

CHUNK_ELEMENTS = 1 << 22  # of float32 in flight while a weight is loaded


class AffineRows(Weight):
    """Bytes with a scale and a zero point (both float32) for each row.

    What is held is `q - 128`, the inputs of one group after the other.
    """

    w_GOJ: Tensor
    scale_O: Tensor
    zero_O: Tensor

    def __init__(
        self, out_features: int, *, in_features: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.out_features = out_features
        self.in_features = in_features
        self._dtype = dtype
        self._is_symmetric = True
        shape = (-(-in_features // GROUP), out_features, GROUP)
        self.register_buffer("w_GOJ", torch.zeros(shape, dtype=torch.int8, device=device))
        self.register_buffer("scale_O", torch.ones(out_features, device=device))
        self.register_buffer("zero_O", torch.full((out_features,), float(MIDDLE), device=device))

    @abstractmethod
    def scale_and_zero(self, w_RI: Tensor) -> tuple[Tensor, Tensor]:
        """`(scale_R, zero_R)`, float32, for rows in any floating dtype: one checkpoint's module."""

    @abstractmethod
    def integers(self, w_RI: Tensor, scale_R1: Tensor, zero_R1: Tensor) -> Tensor:
        """`q_RI` in 0..255, as float32, of float32 rows."""

    @property
    def q_OI(self) -> Tensor:
        """The unsigned bytes (a new tensor)."""
        return unsigned(self.w_GOJ.transpose(0, 1).flatten(1)[:, : self.in_features])

    @property
    def is_symmetric(self) -> bool:
        """Whether every zero point is 128."""
        return self._is_symmetric

    def load_rows_(self, start: int, w_RI: Tensor) -> None:
        stop = start + len(w_RI)
        scale_R, zero_R = self.scale_and_zero(w_RI)
        self.scale_O[start:stop] = scale_R
        self.zero_O[start:stop] = zero_R
        self._is_symmetric = bool((self.zero_O == MIDDLE).all())
        for chunk_RI in torch.split(w_RI, max(1, CHUNK_ELEMENTS // self.in_features)):
            rows = slice(start, start + len(chunk_RI))
            q_RI = self.integers(
                chunk_RI.to(self.scale_O), self.scale_O[rows, None], self.zero_O[rows, None]
            )
            self.w_GOJ[:, rows] = in_groups(signed(q_RI.to(torch.uint8))).transpose(0, 1)
            start = rows.stop

    def matmul(self, x_TI: Tensor) -> Tensor:
        return multiply_rows(
            x_TI, self.w_GOJ, self.scale_O, self.zero_O, is_symmetric=self._is_symmetric
        )

    def rows(self, ids_T: Tensor) -> Tensor:
        return self._floats(self.w_GOJ[:, ids_T], self.scale_O[ids_T], self.zero_O[ids_T])

    def dequantize(self) -> Tensor:
        return self._floats(self.w_GOJ, self.scale_O, self.zero_O)

    def _floats(self, w_GRJ: Tensor, scale_R: Tensor, zero_R: Tensor) -> Tensor:
        q_RI = unsigned(w_GRJ.transpose(0, 1).flatten(1)[:, : self.in_features])
        return (q_RI.float() - zero_R[:, None]).mul_(scale_R[:, None]).to(self._dtype)
