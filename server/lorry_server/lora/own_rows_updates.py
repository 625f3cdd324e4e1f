"""`OwnRowsUpdate`: rows of a linear's weight that an adapter brings itself, all or a few.

On float weights they are in the model's dtype; on quantized ones they are int8, whatever the base's
scheme, so that they are never coarser than an adapter's other parts.

Shape legend: I input and O output features, T tokens of the step, P tokens of a segment, K rows.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.layers.linear import LinearSlice
from lorry_server.lora.matched import OwnRows
from lorry_server.quantization.int8 import Int8Weight
from lorry_server.quantization.scheme import Weight
from lorry_server.quantization.unquantized import UnquantizedWeight


@dataclass(frozen=True, slots=True)
class OwnRowsUpdate:
    """Results that stand in the base's place: those of `columns_K` of the slice, or all (None).

    The base's bias, where the linear has one, is added as the linear itself would.
    """

    part: LinearSlice
    columns_K: Tensor | None
    weight: Weight
    bias_K: Tensor | None

    @property
    def num_bytes(self) -> int:
        tensors = (*self.weight.buffers(), self.columns_K, self.bias_K)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def add_(self, y_TO: Tensor, x_TI: Tensor, tokens_P: Tensor | None) -> None:
        """Change `y_TO`, the whole fused output, in place; None means every token."""
        y_slice = y_TO[:, self.part.start : self.part.stop]
        x_PI = x_TI if tokens_P is None else x_TI.index_select(0, tokens_P)
        y_PK = self.weight.matmul(x_PI)
        if self.bias_K is not None:
            y_PK = y_PK + self.bias_K
        if self.columns_K is not None:
            y_PO = y_slice if tokens_P is None else y_slice.index_select(0, tokens_P)
            y_PK = y_PO.index_copy(1, self.columns_K, y_PK)
        if tokens_P is None:
            y_slice.copy_(y_PK)
        else:
            y_slice.index_copy_(0, tokens_P, y_PK)

    def to(self, device: torch.device) -> OwnRowsUpdate:
        """The same on `device`."""
        if all(buffer.device == device for buffer in self.weight.buffers()):
            return self
        return OwnRowsUpdate(
            self.part,
            None if self.columns_K is None else self.columns_K.to(device),
            deepcopy(self.weight).to(device),
            None if self.bias_K is None else self.bias_K.to(device),
        )


def own_rows_update(
    part: LinearSlice,
    own_rows: OwnRows,
    *,
    bias_O: Tensor | None,
    is_quantized: bool,
    dtype: torch.dtype,
) -> OwnRowsUpdate:
    """An update in host memory of its own; `bias_O` is the base's bias of the slice."""
    columns_K, rows_KI = own_rows.ids_K, own_rows.rows_KI
    if bias_O is not None and columns_K is not None:
        bias_O = bias_O[columns_K]
    weight = int8_rows(rows_KI) if is_quantized else _float_rows(rows_KI, dtype)
    return OwnRowsUpdate(part, columns_K, weight, bias_O)


def int8_rows(rows_KI: Tensor) -> Int8Weight:
    """Rows of an adapter's own on a quantized linear."""
    weight = Int8Weight(
        len(rows_KI),
        in_features=rows_KI.shape[1],
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    weight.load_rows_(0, rows_KI)
    return weight


def _float_rows(rows_KI: Tensor, dtype: torch.dtype) -> UnquantizedWeight:
    weight = UnquantizedWeight(
        len(rows_KI), in_features=rows_KI.shape[1], dtype=dtype, device=torch.device("cpu")
    )
    weight.load_rows_(0, rows_KI)
    return weight
