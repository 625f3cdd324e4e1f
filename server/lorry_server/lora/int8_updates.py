"""Adapters on a quantized linear: int8 like its weight, so that compiled code has the same bits.

An adapter's A has one scale for each rank row and its B, with the scaling folded in before, one
for each output row. The update of a slice of a fused projection is two of the products that
`kernels.affine_matmul` specifies, the ranks padded with zeros to a group of 32:

    y_slice = y_slice + B (A x)

Shape legend: R rank rows, I input and O output features, T tokens of the step, P tokens of a
segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.kernels.lora import TokenSegment
from lorry_server.layers.linear import LinearSlice
from lorry_server.lora.adapter import LoraWeights
from lorry_server.quantization.int8 import Int8Weight


@dataclass(frozen=True, slots=True)
class Int8Update:
    """One adapter's update of one slice; `a` has R rows of I, `b` has O rows of R."""

    part: LinearSlice
    a: Int8Weight
    b: Int8Weight

    def add_(self, y_TO: Tensor, x_TI: Tensor, tokens_P: Tensor | None) -> None:
        """Add to `y_TO`, the whole fused output, in place; None means every token."""
        y_slice = y_TO[:, self.part.start : self.part.stop]
        if tokens_P is None:
            y_slice.add_(self._of(x_TI))
        else:
            y_slice.index_add_(0, tokens_P, self._of(x_TI.index_select(0, tokens_P)))

    def _of(self, x_PI: Tensor) -> Tensor:
        return self.b.matmul(self.a.matmul(x_PI))


class Int8Updates:
    """The updates of one quantized linear; `by_start` has them by their adapter's first pool row.

    An adapter has one for each slice that it targets, in the order of the slices, and there
    exactly the rank that it has there.
    """

    def __init__(self, *, device: torch.device) -> None:
        self.by_start: dict[int, tuple[Int8Update, ...]] = {}
        self._device = device

    def write(self, part: LinearSlice, weights: LoraWeights, *, start: int) -> None:
        update = Int8Update(part, self._quantized(weights.a_RI), self._quantized(weights.b_OR))
        updates = (*self.by_start.get(start, ()), update)
        self.by_start[start] = tuple(sorted(updates, key=lambda update: update.part.start))

    def add_(self, y_TO: Tensor, x_TI: Tensor, segments: tuple[TokenSegment, ...]) -> None:
        for segment in segments:
            for update in self.by_start.get(segment.start, ()):
                update.add_(y_TO, x_TI, segment.tokens_P)

    def _quantized(self, w_OI: Tensor) -> Int8Weight:
        weight = Int8Weight(
            len(w_OI), in_features=w_OI.shape[1], dtype=torch.float32, device=self._device
        )
        weight.load_rows_(0, w_OI)
        return weight
