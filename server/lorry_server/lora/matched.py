"""`MatchedAdapter`: what an adapter changes in one model, in the few forms that runners compute.

Whatever PEFT calls it, a linear module's results are changed by these, in this order: rows of the
weight that are the adapter's own, B A x, and `y * scale + shift` (`kernels.adapted_rows`). Embeddings
by rows of their own, a scale, and LoRA.

Shape legend: R ranks, I input and O output features, V vocabulary, D hidden size, K rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from lorry_server.layers.linear import LinearSlice
from lorry_server.lora.peft_tensors import LoraWeights


@dataclass(frozen=True, slots=True)
class OwnRows:
    """Rows of a weight that the adapter brings: those of `ids_K` (int64), or all (None)."""

    ids_K: Tensor | None
    rows_KI: Tensor

    def of(self, values_O: Tensor) -> Tensor:
        """Of a value or a row for each row of the weight, those of these rows."""
        return values_O if self.ids_K is None else values_O[self.ids_K]


@dataclass(frozen=True, slots=True)
class ScaleAndShift:
    """`y * scale + shift`, both float32."""

    scale_O: Tensor
    shift_O: Tensor


@dataclass(frozen=True, slots=True)
class MatchedSlice:
    """What an adapter does to one slice of a linear; at least one of the three is there."""

    part: LinearSlice
    weights: LoraWeights | None = None
    own_rows: OwnRows | None = None
    results: ScaleAndShift | None = None


@dataclass(frozen=True, slots=True)
class MatchedEmbedding:
    """What an adapter does to the embedding of a token. A lies by tokens; its scaling is in B."""

    own_rows: OwnRows | None = None
    scale_D: Tensor | None = None
    a_VR: Tensor | None = None
    b_RD: Tensor | None = None


@dataclass(frozen=True, slots=True)
class MatchedAdapter:
    """An adapter by the linears' names, slices in their order; `unmatched` is not in the model.

    `norms` are weights in place of those of the norms with these names, with the norm's offset.
    """

    by_linear: Mapping[str, tuple[MatchedSlice, ...]]
    embedding: MatchedEmbedding | None
    norms: Mapping[str, Tensor]
    unmatched: tuple[str, ...]

    def pairs(self) -> Iterator[LoraWeights]:
        """The updates B A of all slices."""
        for slices in self.by_linear.values():
            yield from (one.weights for one in slices if one.weights is not None)
