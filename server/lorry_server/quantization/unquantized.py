"""Weights as they were loaded: the scheme that the others are compared to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lorry_server.quantization.scheme import Weight


class UnquantizedWeight(Weight):
    """A plain matrix in the model's dtype."""

    is_quantized = False
    w_OI: Tensor

    def __init__(
        self, out_features: int, *, in_features: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.out_features = out_features
        self.in_features = in_features
        self.register_buffer(
            "w_OI", torch.empty((out_features, in_features), dtype=dtype, device=device)
        )

    def load_rows_(self, start: int, w_RI: Tensor) -> None:
        self.w_OI[start : start + len(w_RI)].copy_(w_RI)

    def matmul(self, x_TI: Tensor) -> Tensor:
        return F.linear(x_TI, self.w_OI)

    def rows(self, ids_T: Tensor) -> Tensor:
        return F.embedding(ids_T, self.w_OI)

    def dequantize(self) -> Tensor:
        return self.w_OI


class Unquantized:
    """The scheme named "none"."""

    def create(
        self,
        out_features: int,
        *,
        in_features: int,
        is_head: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> UnquantizedWeight:
        return UnquantizedWeight(out_features, in_features=in_features, dtype=dtype, device=device)
