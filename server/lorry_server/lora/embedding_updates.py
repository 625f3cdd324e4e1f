"""What adapters do to the embeddings of a step: rows of their own, a scale, and LoRA.

`kernels.adapted_rows` specifies the arithmetic.

Shape legend: T tokens of the step, P tokens of a segment, V vocabulary, K rows, R ranks, D hidden
size.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lorry_server.kernels.adapted_rows import embedding_update
from lorry_server.lora.matched import MatchedEmbedding


@dataclass(frozen=True, slots=True)
class EmbeddingUpdate:
    """One adapter's. `rows_KD` are those of the tokens `ids_K`, in order, or of all (None)."""

    ids_K: Tensor | None
    rows_KD: Tensor | None
    scale_D: Tensor | None
    a_VR: Tensor | None
    b_RD: Tensor | None

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors() if tensor is not None)

    def own_rows(self, token_ids_P: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the tokens have a row of the adapter's, and the rows' numbers where they have."""
        if self.rows_KD is None:
            return torch.zeros_like(token_ids_P, dtype=torch.bool), token_ids_P
        if self.ids_K is None:
            return torch.ones_like(token_ids_P, dtype=torch.bool), token_ids_P
        at_P = torch.searchsorted(self.ids_K, token_ids_P).clamp_(max=len(self.ids_K) - 1)
        return self.ids_K[at_P] == token_ids_P, at_P

    def added(self, token_ids_P: Tensor) -> Tensor | None:
        """What LoRA adds to the tokens' rows, float32; None without LoRA."""
        if self.a_VR is None or self.b_RD is None:
            return None
        return embedding_update(self.a_VR[token_ids_P].float(), self.b_RD)

    def apply_(self, x_TD: Tensor, token_ids_T: Tensor, tokens_P: Tensor | None) -> None:
        """Change the embeddings `x_TD` of the tokens `tokens_P` in place; None means all."""
        token_ids_P = token_ids_T if tokens_P is None else token_ids_T[tokens_P]
        x_PD = x_TD if tokens_P is None else x_TD[tokens_P]
        if self.rows_KD is not None:
            has_row_P, at_P = self.own_rows(token_ids_P)
            x_PD = x_PD.clone()
            x_PD[has_row_P] = self.rows_KD[at_P[has_row_P]]
        y_PD = x_PD.float()
        if self.scale_D is not None:
            y_PD = y_PD * self.scale_D
        added_PD = self.added(token_ids_P)
        if added_PD is not None:
            y_PD = y_PD + added_PD
        if tokens_P is None:
            x_TD.copy_(y_PD)
        else:
            x_TD[tokens_P] = y_PD.to(x_TD.dtype)

    def to(self, device: torch.device) -> EmbeddingUpdate:
        """The same on `device`; the copy is queued there and not waited for."""
        return EmbeddingUpdate(
            *(
                None if tensor is None else tensor.to(device, non_blocking=True)
                for tensor in self._tensors()
            )
        )

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, each.name) for each in fields(self))


def make_embedding_update(matched: MatchedEmbedding, *, dtype: torch.dtype) -> EmbeddingUpdate:
    """An update in host memory of its own, rows in `dtype`, the rest float32."""
    ids_K = rows_KD = None
    if matched.own_rows is not None:
        ids_K, rows_KD = matched.own_rows.ids_K, matched.own_rows.rows_KI.to(dtype, copy=True)
        if ids_K is not None:
            ids_K, order_K = ids_K.sort()
            rows_KD = rows_KD[order_K]
    return EmbeddingUpdate(ids_K, rows_KD, matched.scale_D, matched.a_VR, matched.b_RD)
