"""`AdapterPool`: the adapters of the reference runner, and the seam into the model's layers.

On float weights they are floats, on quantized ones int8; each adapter has tensors of exactly its
own ranks, slices and linears. They are prepared in host memory (page-locked, where the device is a
GPU), and are on the device while they are attached.

Shape legend: I input and O output features, T tokens of the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.kernels.lora import TokenSegment
from lorry_server.layers.embedding import EmbeddingPlace
from lorry_server.layers.linear import Linear
from lorry_server.layers.norm import RMSNorm
from lorry_server.lora.adapter import Adapter
from lorry_server.lora.base_weights import BaseWeights
from lorry_server.lora.embedding_updates import EmbeddingUpdate, make_embedding_update
from lorry_server.lora.float_updates import FloatUpdate, float_update
from lorry_server.lora.int8_updates import Int8Update, int8_update
from lorry_server.lora.matched import MatchedSlice
from lorry_server.lora.matching import AdapterMatcher
from lorry_server.lora.own_rows_updates import OwnRowsUpdate, own_rows_update
from lorry_server.lora.prepared import PreparedAdapter
from lorry_server.lora.result_updates import ResultUpdate, result_update

Update = FloatUpdate | Int8Update | OwnRowsUpdate | ResultUpdate


class AdapterRouting:
    """Which tokens of the step use which slot: one owner writes it, every layer reads it."""

    def __init__(self) -> None:
        self.segments: tuple[TokenSegment, ...] = ()


class LinearSlots:
    """What is attached to a linear as its `adapters`: their updates of it, by slot.

    They are in the order in which they are made: by slice, and in each as `lora.matched` says.
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


class EmbeddingSlots:
    """What is attached to a model's embedding as its `adapters`: their updates of it, by slot."""

    def __init__(self, routing: AdapterRouting) -> None:
        self.by_slot: dict[int, EmbeddingUpdate] = {}
        self._routing = routing

    def apply_(self, x_TD: Tensor, token_ids_T: Tensor) -> None:
        """Change the embeddings of tokens whose adapter asks for it; leave the others alone."""
        if not self.by_slot:
            return
        for segment in self._routing.segments:
            update = self.by_slot.get(segment.slot)
            if update is not None:
                update.apply_(x_TD, token_ids_T, segment.tokens_P)


class NormSlots:
    """What is attached to a norm as its `adapters`: their weights in its place, by slot."""

    def __init__(self, routing: AdapterRouting) -> None:
        self.by_slot: dict[int, Tensor] = {}
        self._routing = routing

    def weights(self, weight_D: Tensor, num_tokens: int) -> Tensor:
        """The weight of each token, or the one that all tokens of the step have."""
        mine = [one for one in self._routing.segments if one.slot in self.by_slot]
        if not mine:
            return weight_D
        weight_TD = weight_D.repeat(num_tokens, 1)
        for segment in mine:
            tokens = slice(None) if segment.tokens_P is None else segment.tokens_P
            weight_TD[tokens] = self.by_slot[segment.slot]
        return weight_TD


@dataclass(frozen=True, slots=True)
class PreparedUpdates:
    """The `contents` of a `PreparedAdapter` of this pool: updates by the linear's name."""

    by_linear: Mapping[str, tuple[Update, ...]]
    embedding: EmbeddingUpdate | None
    norms: Mapping[str, Tensor]

    @property
    def num_bytes(self) -> int:
        of_linears = sum(one.num_bytes for updates in self.by_linear.values() for one in updates)
        of_embedding = self.embedding.num_bytes if self.embedding is not None else 0
        return of_linears + of_embedding + sum(weight.nbytes for weight in self.norms.values())


class AdapterPool:
    """`DeviceAdapters` for torch. `slots` has every linear's, by its name.

    `norms` are those that adapters can change, `embedding` is where the model lets its embedding be
    changed, and `base` what it was loaded from.
    """

    def __init__(
        self,
        linears: Iterable[Linear],
        *,
        dtype: torch.dtype,
        device: torch.device,
        norms: Iterable[RMSNorm] = (),
        embedding: EmbeddingPlace | None = None,
        base: BaseWeights | None = None,
    ) -> None:
        self.routing = AdapterRouting()
        self.embedding_slots = EmbeddingSlots(self.routing)
        self.slots: dict[str, LinearSlots] = {}
        self._dtype = dtype
        self._device = device
        self._linears = {linear.name: linear for linear in linears}
        self._norm_slots: dict[str, NormSlots] = {}
        norms = tuple(norms)
        self._matcher = AdapterMatcher(
            self._linears.values(), norms=norms, embedding=embedding, base=base
        )
        for norm in norms:
            self._norm_slots[norm.name] = norm.adapters = NormSlots(self.routing)
        for linear in self._linears.values():
            self.slots[linear.name] = linear.adapters = LinearSlots(self.routing)
        if embedding is not None:
            embedding.adapters = self.embedding_slots

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        """See `DeviceAdapters.prepare`."""
        matched = self._matcher.match(adapter)
        embedding = None
        if matched.embedding is not None:
            embedding = make_embedding_update(matched.embedding, dtype=self._dtype)
        by_linear = {
            name: tuple(update for one in slices for update in self._prepared(name, one))
            for name, slices in matched.by_linear.items()
        }
        contents = PreparedUpdates(by_linear, embedding, matched.norms)
        return PreparedAdapter(
            digest=adapter.digest,
            num_bytes=contents.num_bytes,
            unmatched=matched.unmatched,
            contents=contents,
        )

    def attach(self, slot: int, prepared: PreparedAdapter) -> None:
        """See `DeviceAdapters.attach`. On a GPU the copies are queued before the next step."""
        contents = prepared.contents
        assert isinstance(contents, PreparedUpdates)
        for name, updates in contents.by_linear.items():
            by_slot = self.slots[name].by_slot
            assert slot not in by_slot
            by_slot[slot] = tuple(update.to(self._device) for update in updates)
        if contents.embedding is not None:
            self.embedding_slots.by_slot[slot] = contents.embedding.to(self._device)
        for name, weight_D in contents.norms.items():
            self._norm_slots[name].by_slot[slot] = weight_D.to(self._device)

    def detach(self, slot: int) -> None:
        """See `DeviceAdapters.detach`."""
        for slots in self.slots.values():
            slots.by_slot.pop(slot, None)
        self.embedding_slots.by_slot.pop(slot, None)
        for norm_slots in self._norm_slots.values():
            norm_slots.by_slot.pop(slot, None)

    def _prepared(self, name: str, matched: MatchedSlice) -> Iterator[Update]:
        linear, part = self._linears[name], matched.part
        is_quantized = linear.weight.is_quantized
        if matched.own_rows is not None:
            bias_O = None
            if linear.bias_O is not None:
                bias_O = linear.bias_O[part.start : part.stop].cpu()
            yield own_rows_update(
                part,
                matched.own_rows,
                bias_O=bias_O,
                is_quantized=is_quantized,
                dtype=self._dtype,
            )
        if matched.weights is not None:
            if is_quantized:
                yield int8_update(part, matched.weights)
            else:
                is_pinned = self._device.type == "cuda"
                yield float_update(part, matched.weights, dtype=self._dtype, is_pinned=is_pinned)
        if matched.results is not None:
            yield result_update(part, matched.results)
