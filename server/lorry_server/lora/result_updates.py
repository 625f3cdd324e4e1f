"""`ResultUpdate`: the factor and the shift that an adapter gives the results of a linear's slice.

Shape legend: I input and O output features, T tokens of the step, P tokens of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.kernels.adapted_rows import scale_and_shift
from lorry_server.layers.linear import LinearSlice
from lorry_server.lora.matched import ScaleAndShift


@dataclass(frozen=True, slots=True)
class ResultUpdate:
    """`y * scale + shift` of one slice, after the adapter's update was added; both float32."""

    part: LinearSlice
    scale_O: Tensor
    shift_O: Tensor

    @property
    def num_bytes(self) -> int:
        return self.scale_O.nbytes + self.shift_O.nbytes

    def add_(self, y_TO: Tensor, x_TI: Tensor, tokens_P: Tensor | None) -> None:
        """Change `y_TO`, the whole fused output, in place; None means every token."""
        y_slice = y_TO[:, self.part.start : self.part.stop]
        if tokens_P is None:
            y_slice.copy_(scale_and_shift(y_slice, self.scale_O, self.shift_O))
        else:
            y_PO = y_slice.index_select(0, tokens_P)
            y_slice.index_copy_(0, tokens_P, scale_and_shift(y_PO, self.scale_O, self.shift_O))

    def to(self, device: torch.device) -> ResultUpdate:
        """The same on `device`; the copy is queued there and not waited for."""
        return ResultUpdate(
            self.part,
            self.scale_O.to(device, non_blocking=True),
            self.shift_O.to(device, non_blocking=True),
        )


def result_update(part: LinearSlice, results: ScaleAndShift) -> ResultUpdate:
    """An update in host memory of its own."""
    return ResultUpdate(part, results.scale_O.clone(), results.shift_O.clone())
