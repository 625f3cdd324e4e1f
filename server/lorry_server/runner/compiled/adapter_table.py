"""`AdapterTable`: the adapters of a model where the compiled code finds them, by slot and linear.

Every linear of the tape has an entry for each slot from the start, so any adapter may come at any
time. An adapter that does not target a slice of a linear has rank 0 there and costs nothing; a linear
that no adapter of the step targets is computed as if there were none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from lorry_server.engine.plan import AdapterSegments, Int32
from lorry_server.errors import AdapterError
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena, address
from lorry_server.layers.embedding import EmbeddingPlace
from lorry_server.layers.linear import Linear
from lorry_server.layers.norm import RMSNorm
from lorry_server.lora.adapter import Adapter
from lorry_server.lora.base_weights import BaseWeights
from lorry_server.lora.embedding_updates import EmbeddingUpdate, make_embedding_update
from lorry_server.lora.matched import MatchedAdapter, MatchedSlice, OwnRows
from lorry_server.lora.matching import HEAD, AdapterMatcher
from lorry_server.lora.prepared import PreparedAdapter
from lorry_server.lora.residency import MAX_SLOTS
from lorry_server.runner.compiled.adapter_memory import ENTRY_WORDS, AdapterMemory, Entry
from lorry_server.runner.compiled.embedding_table import EmbeddingTable
from lorry_server.runner.compiled.norm_table import NormTable
from lorry_server.runner.compiled.own_rows_table import OwnRowsTable
from lorry_server.runner.compiled.packed_linear import PackedLinear
from lorry_server.runner.compiled.records import Field
from lorry_server.runner.compiled.shrunk_rows import ShrunkRows
from lorry_server.runner.compiled.step_block import NO_ADAPTER


class AdapterPacker(Protocol):
    """How adapters lie beside weights of one kind."""

    def pack(
        self, linear: PackedLinear, slices: Sequence[MatchedSlice], memory: AdapterMemory
    ) -> Entry:
        """Put an adapter's updates of a linear into `memory`; from any thread."""
        ...

    def pack_own_rows(self, one: MatchedSlice, own_rows: OwnRows, memory: AdapterMemory) -> Entry:
        """The same with own rows of the head, and what `one` does to them, for an `OwnRowsTable`."""
        ...

    def shrunk_rows(self, arena: Arena, *, max_rows: int) -> ShrunkRows: ...


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """The `contents` of a `PreparedAdapter` of this table.

    `entries` are of the linears with the numbers `linears_L`, `own_rows` is the head's; they name
    addresses in `memory`.
    """

    memory: npt.NDArray[np.uint8]
    linears_L: npt.NDArray[np.int64]
    entries: npt.NDArray[np.int64]
    rank: int  # the largest
    own_rows: npt.NDArray[np.int64] | None
    norms: npt.NDArray[np.int64]
    embedding: EmbeddingUpdate | None


class AdapterTable:
    """`DeviceAdapters` for compiled code: `linears` are the model's, `max_rows` a step's tokens.

    `norms` are those that adapters can change, `embedding` is where the model lets its embedding be
    changed, whose rows are of `dtype`; `base` is what the model was loaded from.
    """

    def __init__(
        self,
        linears: Iterable[Linear],
        packer: AdapterPacker,
        arena: Arena,
        *,
        max_rows: int,
        max_slots: int = MAX_SLOTS,
        dtype: torch.dtype = torch.float32,
        norms: Iterable[RMSNorm] = (),
        embedding: EmbeddingPlace | None = None,
        base: BaseWeights | None = None,
    ) -> None:
        linears, norms = tuple(linears), tuple(norms)
        self._packer = packer
        self._dtype = dtype
        self._matcher = AdapterMatcher(linears, norms=norms, embedding=embedding, base=base)
        self.norms = NormTable(arena, norms, max_slots=max_slots)
        self.own_rows = OwnRowsTable(arena, max_slots=max_slots)
        self.embeddings = EmbeddingTable(arena, embedding, max_tokens=max_rows)
        self._numbers = {linear.name: number for number, linear in enumerate(linears)}
        self._packed: dict[str, PackedLinear] = {}
        # All of a slot lies together, so that slots that were never used take no memory.
        shape = (max_slots, len(linears), ENTRY_WORDS)
        self._entries = Arena(huge_pages=False).words(int(np.prod(shape))).reshape(shape)
        self._targets = np.zeros((max_slots, len(linears)), np.bool_)
        self._is_active = arena.words(len(linears))
        self._active_slots: list[int] = []  # of which `_is_active` tells
        self._shrunk = packer.shrunk_rows(arena, max_rows=max_rows)
        self._attached: dict[int, PackedAdapter] = {}  # keeps their memory

    def fields(self, linear: PackedLinear) -> dict[int, Field]:
        """What a record needs to apply adapters to a linear."""
        number = self._numbers[linear.name]
        self._packed[linear.name] = linear
        return {
            t.LORA: self._entries[0, number],
            t.LORA_SLOT_BYTES: self._entries[0].nbytes,
            t.LORA_IS_ACTIVE: self._is_active[number:],
            t.SHRUNK: self._shrunk.block,
            t.NUM_SLICES: linear.num_slices,
        }

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        """See `DeviceAdapters.prepare`; once all linears have their `fields`."""
        matched = self._matcher.match(adapter)
        memory = AdapterMemory()
        own_entry = self._pack_own_rows(adapter, matched, memory)
        entries = {
            name: self._packer.pack(self._packed[name], slices, memory)
            for name, slices in matched.by_linear.items()
            if any(one.weights is not None or one.results is not None for one in slices)
        }
        norms = self.norms.pack(matched.norms, memory)
        embedding = None
        if matched.embedding is not None:
            embedding = make_embedding_update(matched.embedding, dtype=self._dtype)
        laid = memory.lay()
        words = np.zeros((len(entries), ENTRY_WORDS), np.int64)
        for index, entry in enumerate(entries.values()):
            words[index] = entry.at(address(laid))
        packed = PackedAdapter(
            memory=laid,
            linears_L=np.array([self._numbers[name] for name in entries], np.int64),
            entries=words,
            rank=max((pair.rank for pair in matched.pairs()), default=1),
            own_rows=None if own_entry is None else own_entry.at(address(laid)),
            norms=norms.at(address(laid)),
            embedding=embedding,
        )
        return PreparedAdapter(
            digest=adapter.digest,
            num_bytes=len(laid) + (0 if embedding is None else embedding.num_bytes),
            unmatched=matched.unmatched,
            contents=packed,
        )

    def attach(self, slot: int, prepared: PreparedAdapter) -> None:
        """See `DeviceAdapters.attach`."""
        packed = prepared.contents
        assert isinstance(packed, PackedAdapter)
        assert slot not in self._attached
        self._shrunk.hold(packed.rank)
        self._entries[slot, packed.linears_L] = packed.entries
        self._targets[slot, packed.linears_L] = True
        self.own_rows.attach(slot, packed.own_rows)
        self.norms.attach(slot, packed.norms)
        self.embeddings.attach(slot, packed.embedding)
        self._attached[slot] = packed
        self._active_slots = []

    def detach(self, slot: int) -> None:
        """See `DeviceAdapters.detach`."""
        del self._attached[slot]
        self._entries[slot] = 0
        self._targets[slot] = False
        self.own_rows.detach(slot)
        self.norms.detach(slot)
        self.embeddings.detach(slot)
        self._active_slots = []

    def slots_of_tokens(self, segments: AdapterSegments, token_ids_T: Int32) -> Int32 | None:
        """The slot of each token of the next step, -1 for none; None if no token has one.

        Has the next step pass over the linears that none of its adapters targets, and find what
        the others do to its tokens' embeddings.
        """
        if len(segments.slots_G) == 0:
            return None
        self.embeddings.fill(segments, token_ids_T)
        slots = segments.slots_G.tolist()
        if slots != self._active_slots:
            self._is_active[:] = self._targets[slots].any(axis=0)
            self.own_rows.activate(slots)
            self._active_slots = slots
        slots_T = np.full(len(token_ids_T), NO_ADAPTER, np.int32)
        slots_T[segments.tokens_P] = np.repeat(segments.slots_G, np.diff(segments.starts_G1))
        return slots_T

    def _pack_own_rows(
        self, adapter: Adapter, matched: MatchedAdapter, memory: AdapterMemory
    ) -> Entry | None:
        """Raises AdapterError for rows that are not the head's."""
        entry = None
        for slices in matched.by_linear.values():
            for one in slices:
                if one.own_rows is None:
                    continue
                if one.part.name != HEAD:
                    raise AdapterError(
                        f"adapter {str(adapter.path)!r}: {one.part.name!r} is replaced, which the "
                        "compiled kernels do not do; --cpu-kernels torch serves it"
                    )
                entry = self._packer.pack_own_rows(one, one.own_rows, memory)
        return entry
