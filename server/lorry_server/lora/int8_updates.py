"""Adapters on a quantized linear: int8 like its weight, so that compiled code has the same bits.

An adapter's A has one scale for each rank row and its B, with the scaling folded in before, one
for each output row. The update of a slice of a fused projection is two of the products that
`kernels.affine_matmul` specifies, the ranks padded with zeros to a group of 32:

    y_slice = y_slice + B (A x)

Shape legend: R rank rows, I input and O output features, T tokens of the step, P tokens of a
segment.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.layers.linear import LinearSlice
from lorry_server.lora.peft_tensors import LoraWeights
from lorry_server.quantization.int8 import Int8Weight


@dataclass(frozen=True, slots=True)
class Int8Update:
    """One adapter's update of one slice; `a` has R rows of I, `b` has O rows of R."""

    part: LinearSlice
    a: Int8Weight
    b: Int8Weight

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for weight in (self.a, self.b) for buffer in weight.buffers())

    def add_(self, y_TO: Tensor, x_TI: Tensor, tokens_P: Tensor | None) -> None:
        """Add to `y_TO`, the whole fused output, in place; None means every token."""
        y_slice = y_TO[:, self.part.start : self.part.stop]
        if tokens_P is None:
            y_slice.add_(self._of(x_TI))
        else:
            y_slice.index_add_(0, tokens_P, self._of(x_TI.index_select(0, tokens_P)))

    def to(self, device: torch.device) -> Int8Update:
        """The same on `device`."""
        if self.a.scale_O.device == device:
            return self
        return Int8Update(self.part, deepcopy(self.a).to(device), deepcopy(self.b).to(device))

    def _of(self, x_PI: Tensor) -> Tensor:
        return self.b.matmul(self.a.matmul(x_PI))


def int8_update(part: LinearSlice, weights: LoraWeights) -> Int8Update:
    """Quantize one slice's update, in host memory."""
    return Int8Update(part, _quantized(weights.a_RI), _quantized(weights.b_OR))


def _quantized(w_OI: Tensor) -> Int8Weight:
    weight = Int8Weight(
        len(w_OI), in_features=w_OI.shape[1], dtype=torch.float32, device=w_OI.device
    )
    weight.load_rows_(0, w_OI)
    return weight
