"""`EmbeddingTable`: what a step's adapters do to the embeddings of its tokens, for compiled code.

Rows of an adapter's own lie where it was prepared, and the compiled code is told their addresses. What
LoRA adds to a token's row is computed here, as the reference does, because it is a few tokens times a
few ranks.

Shape legend: T tokens of the largest step, P tokens of a segment, D hidden size.
"""

from __future__ import annotations

import numpy as np
import torch

from lorry_server.engine.plan import AdapterSegments, Int32
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena, address
from lorry_server.layers.embedding import EmbeddingPlace
from lorry_server.lora.embedding_updates import EmbeddingUpdate

WORDS = t.EMBED_CHANGE_BYTES // t.WORD_BYTES
OWN, SCALE, ADDED = (
    offset // t.WORD_BYTES for offset in (t.OWN_EMBEDDING, t.EMBEDDING_SCALE, t.EMBEDDING_ADDED)
)


class EmbeddingTable:
    """Three addresses for each token of a step, which are 0 where there is nothing to do."""

    def __init__(self, arena: Arena, place: EmbeddingPlace | None, *, max_tokens: int) -> None:
        size = 0 if place is None else place.size
        self.changes = arena.words(max_tokens * WORDS)
        self._changes_T3 = self.changes.reshape(max_tokens, WORDS)
        self._added_TD = arena.floats(max_tokens * size).reshape(max_tokens, size)
        self._by_slot: dict[int, EmbeddingUpdate] = {}
        self._has_changes = False

    def attach(self, slot: int, update: EmbeddingUpdate | None) -> None:
        if update is not None:
            self._by_slot[slot] = update

    def detach(self, slot: int) -> None:
        self._by_slot.pop(slot, None)

    def fill(self, segments: AdapterSegments, token_ids_T: Int32) -> None:
        """The changes of the next step."""
        if self._has_changes:
            self._changes_T3[:] = 0
            self._has_changes = False
        if not self._by_slot:
            return
        for index, slot in enumerate(segments.slots_G.tolist()):
            update = self._by_slot.get(slot)
            if update is not None:
                tokens_P = segments.tokens_P[
                    segments.starts_G1[index] : segments.starts_G1[index + 1]
                ]
                self._fill_segment(update, tokens_P, torch.from_numpy(token_ids_T[tokens_P]).long())
                self._has_changes = True

    def _fill_segment(
        self, update: EmbeddingUpdate, tokens_P: Int32, token_ids_P: torch.Tensor
    ) -> None:
        if update.rows_KD is not None:
            has_row_P, at_P = update.own_rows(token_ids_P)
            row_bytes = update.rows_KD.shape[1] * update.rows_KD.element_size()
            addresses_P = update.rows_KD.data_ptr() + at_P * row_bytes
            self._changes_T3[tokens_P, OWN] = torch.where(has_row_P, addresses_P, 0).numpy()
        if update.scale_D is not None:
            self._changes_T3[tokens_P, SCALE] = update.scale_D.data_ptr()
        added_PD = update.added(token_ids_P)
        if added_PD is not None:
            self._added_TD[tokens_P] = added_PD.numpy()
            row_bytes = self._added_TD.strides[0]
            self._changes_T3[tokens_P, ADDED] = address(
                self._added_TD
            ) + row_bytes * tokens_P.astype(np.int64)
