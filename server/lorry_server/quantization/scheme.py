"""What a quantization scheme is: how one linear's weight is stored, and how it multiplies.

Shape legend: T tokens, I input features, O output features (rows of the weight).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn


class Weight(nn.Module, ABC):
    """The weight `W_OI` of one linear in some stored form; filled by `load_rows_`, then constant."""

    out_features: int
    in_features: int
    is_quantized: bool = True

    @abstractmethod
    def load_rows_(self, start: int, w_RI: Tensor) -> None:
        """Store rows `start : start + R`, given in any floating dtype, on any device."""

    @abstractmethod
    def matmul(self, x_TI: Tensor) -> Tensor:
        """`x_TI W^T`, in the dtype of `x_TI`; a row's result does not depend on the other rows."""

    @abstractmethod
    def rows(self, ids_T: Tensor) -> Tensor:
        """Rows `ids_T` of the weight as floats: the embedding, where it is tied to the head."""

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The float weight `W_OI` that the stored form stands for."""


class Scheme(Protocol):
    """Makes empty weights of one stored form."""

    def create(
        self,
        out_features: int,
        *,
        in_features: int,
        is_head: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Weight:
        """`dtype` is what `rows` and `dequantize` return, and what an unquantized weight holds.

        `is_head` says that the weight makes the logits (and is the embedding, where it is tied).
        """
        ...
