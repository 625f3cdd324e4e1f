"""`AdapterPool`: the adapters of the reference runner, and the seam into the model's layers.

On float weights they are floats, on quantized ones int8; each adapter has tensors of exactly its
own ranks, slices and linears. They are prepared in host memory (page-locked, where the device is a
GPU), and are on the device while they are attached.

Shape legend: I input and O output features, T tokens of the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.kernels.lora import TokenSegment
from lorry_server.layers.linear import Linear
from lorry_server.lora.adapter import Adapter
from lorry_server.lora.float_updates import FloatUpdate, float_update
from lorry_server.lora.int8_updates import Int8Update, int8_update
from lorry_server.lora.matching import AdapterMatcher, MatchedSlice
from lorry_server.lora.prepared import PreparedAdapter

Update = FloatUpdate | Int8Update


class AdapterRouting:
    """Which tokens of the step use which slot: one owner writes it, every layer reads it."""

    def __init__(self) -> None:
        self.segments: tuple[TokenSegment, ...] = ()


class LinearSlots:
    """What is attached to a linear as its `adapters`: their updates of it, by slot.

    An adapter has one for each slice that it targets, in the order of the slices.
    """

    def __init__(self, routing: AdapterRouting) -> None:
        self.by_slot: dict[int, tuple[Update, ...]] = {}
        self._routing = routing

    def add_(self, y_TO: Tensor, x_TI: Tensor) -> None:
        """Add each token's adapter update to `y_TO`; tokens without one are left alone."""
        if not self.by_slot:
            return
        for segment in self._routing.segments:
            for update in self.by_slot.get(segment.slot, ()):
                update.add_(y_TO, x_TI, segment.tokens_P)


@dataclass(frozen=True, slots=True)
class PreparedUpdates:
    """The `contents` of a `PreparedAdapter` of this pool: updates by the linear's name."""

    by_linear: Mapping[str, tuple[Update, ...]]


class AdapterPool:
    """`DeviceAdapters` for torch. `slots` has every linear's, by its name."""

    def __init__(
        self, linears: Iterable[Linear], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.routing = AdapterRouting()
        self.slots: dict[str, LinearSlots] = {}
        self._dtype = dtype
        self._device = device
        self._is_quantized: dict[str, bool] = {}
        linears = tuple(linears)
        self._matcher = AdapterMatcher(linears)
        for linear in linears:
            self.slots[linear.name] = linear.adapters = LinearSlots(self.routing)
            self._is_quantized[linear.name] = linear.weight.is_quantized

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        """See `DeviceAdapters.prepare`."""
        matched = self._matcher.match(adapter)
        by_linear = {
            name: tuple(self._prepared(name, one) for one in slices)
            for name, slices in matched.by_linear.items()
        }
        return PreparedAdapter(
            digest=adapter.digest,
            num_bytes=sum(update.num_bytes for of in by_linear.values() for update in of),
            unmatched=matched.unmatched,
            contents=PreparedUpdates(by_linear),
        )

    def attach(self, slot: int, prepared: PreparedAdapter) -> None:
        """See `DeviceAdapters.attach`. On a GPU the copies are queued before the next step."""
        contents = prepared.contents
        assert isinstance(contents, PreparedUpdates)
        for name, updates in contents.by_linear.items():
            by_slot = self.slots[name].by_slot
            assert slot not in by_slot
            by_slot[slot] = tuple(update.to(self._device) for update in updates)

    def detach(self, slot: int) -> None:
        """See `DeviceAdapters.detach`."""
        for slots in self.slots.values():
            slots.by_slot.pop(slot, None)

    def _prepared(self, linear: str, matched: MatchedSlice) -> Update:
        if self._is_quantized[linear]:
            return int8_update(matched)
        return float_update(matched, dtype=self._dtype, is_pinned=self._device.type == "cuda")
