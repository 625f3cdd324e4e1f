"""Adapters on a linear that is not quantized: A and B in the model's own dtype.

Shape legend: R ranks, I input and O output features, T tokens of the step, P tokens of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.kernels.lora import lora_add_
from lorry_server.layers.linear import LinearSlice
from lorry_server.lora.peft_tensors import LoraWeights


@dataclass(frozen=True, slots=True)
class FloatUpdate:
    """One adapter's update of one slice, the scaling folded into `b_RO`."""

    part: LinearSlice
    a_RI: Tensor
    b_RO: Tensor

    @property
    def num_bytes(self) -> int:
        return self.a_RI.nbytes + self.b_RO.nbytes

    def add_(self, y_TO: Tensor, x_TI: Tensor, tokens_P: Tensor | None) -> None:
        """Add to `y_TO`, the whole fused output, in place; None means every token."""
        y_slice = y_TO[:, self.part.start : self.part.stop]
        lora_add_(y_slice, x_TI, self.a_RI, self.b_RO, tokens_P)

    def to(self, device: torch.device) -> FloatUpdate:
        """The same on `device`; the copy is queued there and not waited for."""
        return FloatUpdate(
            self.part,
            self.a_RI.to(device, non_blocking=True),
            self.b_RO.to(device, non_blocking=True),
        )


def float_update(
    part: LinearSlice, weights: LoraWeights, *, dtype: torch.dtype, is_pinned: bool
) -> FloatUpdate:
    """An update in host memory of its own, page-locked if `is_pinned`."""
    a_RI = weights.a_RI.to(dtype, copy=True)  # a view would keep the whole file in memory
    b_OR = weights.b_OR.to(dtype, copy=True)
    if is_pinned:
        a_RI, b_OR = a_RI.pin_memory(), b_OR.pin_memory()
    return FloatUpdate(part, a_RI, b_OR.T)
