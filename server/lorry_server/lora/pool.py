"""`AdapterPool`: all resident adapters, and the seam into the model's layers.

On float weights they are rank rows of float pools, on quantized ones int8 of each adapter's own
size. A row range names an adapter in either.

Shape legend: R rank rows of the pool, S slices of a fused projection, I input and O output
features, T tokens of the step, N logits rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.errors import AdapterError
from lorry_server.kernels.lora import TokenSegment, lora_add_
from lorry_server.layers.linear import Linear, LinearSlice
from lorry_server.lora.adapter import Adapter, LoraWeights
from lorry_server.lora.int8_updates import Int8Updates
from lorry_server.lora.slots import RowRange


class AdapterRouting:
    """Which tokens of the step use which rows: one owner writes it, every layer reads it."""

    def __init__(self) -> None:
        self.segments: tuple[TokenSegment, ...] = ()


@dataclass(frozen=True, slots=True)
class FloatUpdate:
    """One adapter's update of one slice: views of its rows, the scaling folded into `b_RO`."""

    part: LinearSlice
    a_RI: Tensor
    b_RO: Tensor

    @property
    def rank(self) -> int:
        return self.a_RI.shape[0]


class FloatRows:
    """The rank rows of one linear that is not quantized, for all adapters.

    `by_start` has the updates of each adapter that targets it by the adapter's first row.
    """

    def __init__(
        self,
        linear: Linear,
        *,
        num_rows: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        num_slices = len(linear.slices)
        shape_a = (num_rows, num_slices, linear.in_features)
        shape_b = (num_rows, num_slices, linear.out_features)
        self._a_RSI = torch.zeros(shape_a, dtype=dtype, device=device)
        self._b_RSO = torch.zeros(shape_b, dtype=dtype, device=device)
        self._slice_indices = {part.name: index for index, part in enumerate(linear.slices)}
        self.by_start: dict[int, tuple[FloatUpdate, ...]] = {}

    def write(self, part: LinearSlice, weights: LoraWeights, *, start: int) -> None:
        index = self._slice_indices[part.name]
        rows = slice(start, start + weights.rank)
        a_RI = self._a_RSI[rows, index]
        b_RO = self._b_RSO[rows, index, part.start : part.stop]
        a_RI.copy_(weights.a_RI)
        b_RO.copy_(weights.b_OR.T)
        self.by_start[start] = (*self.by_start.get(start, ()), FloatUpdate(part, a_RI, b_RO))

    def add_(self, y_TO: Tensor, x_TI: Tensor, segments: tuple[TokenSegment, ...]) -> None:
        mine = [segment for segment in segments if segment.start in self.by_start]
        if mine:
            lora_add_(y_TO, x_TI, self._a_RSI, self._b_RSO, mine)


class ResidentAdapters:
    """What is attached to a linear as its `adapters`: it knows the step's routing."""

    def __init__(self, updates: FloatRows | Int8Updates, routing: AdapterRouting) -> None:
        self.updates = updates
        self._routing = routing

    def add_(self, y_TO: Tensor, x_TI: Tensor) -> None:
        """Add each token's adapter update to `y_TO`; tokens without one are left alone."""
        self.updates.add_(y_TO, x_TI, self._routing.segments)


class AdapterPool:
    """The adapters on the device, for every linear layer that some adapter has targeted.

    `updates` has them by the linear's name.
    """

    def __init__(
        self,
        linears: Iterable[Linear],
        *,
        num_rows: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.routing = AdapterRouting()
        self._num_rows = num_rows
        self._dtype = dtype
        self._device = device
        self._slices: dict[str, tuple[Linear, LinearSlice]] = {
            part.name: (linear, part) for linear in linears for part in linear.slices
        }
        self.updates: dict[str, FloatRows | Int8Updates] = {}

    def load(self, modules: Mapping[str, LoraWeights], rows: RowRange) -> None:
        """Write the matched `modules` of an adapter into its rows."""
        for module, weights in modules.items():
            linear, part = self._slices[module]
            self._updates_of(linear).write(part, weights, start=rows.start)

    def match(self, adapter: Adapter) -> tuple[dict[str, LoraWeights], tuple[str, ...]]:
        """Split an adapter into the modules that this model has and the names of the others.

        Raises AdapterError when a matching module has the wrong shape, or none matches.
        """
        matched = {name: w for name, w in adapter.modules.items() if name in self._slices}
        unmatched = tuple(name for name in adapter.modules if name not in self._slices)
        if not matched:
            shown = ", ".join(repr(name) for name in unmatched[:3])
            raise AdapterError(
                f"adapter {str(adapter.path)!r} was made for another model: none of its "
                f"{len(unmatched)} modules is a layer of this one (it has {shown}, ...)"
            )
        for name, weights in matched.items():
            linear, part = self._slices[name]
            wanted = (part.stop - part.start, linear.in_features)
            given = (weights.b_OR.shape[0], weights.a_RI.shape[1])
            if wanted != given:
                raise AdapterError(
                    f"adapter {str(adapter.path)!r}: {name!r} is for a layer of shape "
                    f"{given[0]} x {given[1]}, the model's is {wanted[0]} x {wanted[1]}"
                )
        return matched, unmatched

    def _updates_of(self, linear: Linear) -> FloatRows | Int8Updates:
        if linear.name not in self.updates:
            updates = self._new(linear)
            self.updates[linear.name] = updates
            linear.adapters = ResidentAdapters(updates, self.routing)
        return self.updates[linear.name]

    def _new(self, linear: Linear) -> FloatRows | Int8Updates:
        if linear.weight.is_quantized:
            return Int8Updates(device=self._device)
        return FloatRows(linear, num_rows=self._num_rows, dtype=self._dtype, device=self._device)
