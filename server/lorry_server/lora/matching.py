"""`AdapterMatcher`: what an adapter means on one model, and every reason why it does not fit.

PEFT's semantics, in particular of a head that is tied to the embedding: LoRA on either of them, and a
module that was saved as a whole, leave the other as it is; trained tokens change both, unless the
adapter has rows for the head itself; so does a copy of the base that differs from it.

Shape legend: R rank rows, I input and O output features, V vocabulary, D hidden size, K rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lorry_server.errors import AdapterError
from lorry_server.layers.embedding import EmbeddingPlace
from lorry_server.layers.linear import Linear, LinearSlice
from lorry_server.layers.norm import RMSNorm
from lorry_server.lora.adapter import Adapter
from lorry_server.lora.base_weights import BaseWeights
from lorry_server.lora.dora import column_scale, row_scale
from lorry_server.lora.initial_weights import without_initial_part
from lorry_server.lora.matched import (
    MatchedAdapter,
    MatchedEmbedding,
    MatchedSlice,
    OwnRows,
    ScaleAndShift,
)
from lorry_server.lora.peft_tensors import LoraWeights

HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a module lies, and what of it is not its weight."""

    linear: str
    part: LinearSlice
    num_inputs: int
    bias_O: Tensor | None

    @property
    def num_outputs(self) -> int:
        return self.part.stop - self.part.start


class AdapterMatcher:
    """Knows the names, shapes and biases of a model's linears; it keeps none of their weights.

    `norms` are those that can be changed, `embedding` is None for a model whose embedding cannot be changed; `base` is None where nobody
    has the float weights, and adapters that need them are refused. Any thread may use it.
    """

    def __init__(
        self,
        linears: Iterable[Linear],
        *,
        norms: Iterable[RMSNorm] = (),
        embedding: EmbeddingPlace | None = None,
        base: BaseWeights | None = None,
    ) -> None:
        self.norms = {norm.name: (norm.size, norm.offset) for norm in norms}
        self.places = {
            part.name: _Place(
                linear.name,
                part,
                linear.in_features,
                None if linear.bias_O is None else linear.bias_O[part.start : part.stop],
            )
            for linear in linears
            for part in linear.slices
        }
        self.embedding = embedding
        self.base = base

    def match(self, adapter: Adapter) -> MatchedAdapter:
        """Sort what an adapter changes by linear.

        Raises AdapterError where a part has the wrong shape, or nothing of it is in the model.
        """
        return _Match(self, adapter).match()


class _Match:
    """One adapter on one model."""

    def __init__(self, model: AdapterMatcher, adapter: Adapter) -> None:
        self._model = model
        self._adapter = adapter
        self._embedding_name = model.embedding.name if model.embedding is not None else None
        self._copies = dict(self._differing_copies())

    def match(self) -> MatchedAdapter:
        unmatched = tuple(name for name in self._adapter.names if not self._is_in_model(name))
        if unmatched and len(unmatched) == len(self._adapter.names):
            shown = ", ".join(repr(name) for name in unmatched[:3])
            raise self._error(
                f"was made for another model: none of its {len(unmatched)} modules is a layer of "
                f"this one (it has {shown}, ...)"
            )
        by_linear: dict[str, list[MatchedSlice]] = {}
        for name, place in self._model.places.items():
            matched = self._slice(name, place)
            if matched is not None:
                by_linear.setdefault(place.linear, []).append(matched)
        return MatchedAdapter(
            by_linear={
                linear: tuple(sorted(slices, key=lambda one: one.part.start))
                for linear, slices in by_linear.items()
            },
            embedding=self._matched_embedding(),
            norms=dict(self._matched_norms()),
            unmatched=unmatched,
        )

    def _is_in_model(self, name: str) -> bool:
        module, _, tensor = name.rpartition(".")
        if name in self._adapter.replaced:
            if module in self._model.places:
                return tensor == "weight" or self._model.places[module].bias_O is not None
            return tensor == "weight" and (
                module == self._embedding_name or module in self._model.norms
            )
        if name in self._adapter.embedding:
            return name == self._embedding_name
        if name in self._adapter.modules:
            return name in self._model.places
        return name in self._model.places or name == self._embedding_name

    def _slice(self, name: str, place: _Place) -> MatchedSlice | None:
        own_rows = self._own_rows(name, num_rows=place.num_outputs, size=place.num_inputs)
        weights = self._adapter.modules.get(name)
        if weights is not None:
            self._check_shape(name, weights, wanted=(place.num_outputs, place.num_inputs))
            weights = self._relative_to_base(name, weights)
        results = self._results(name, place, weights)
        if weights is None and own_rows is None and results is None:
            return None
        return MatchedSlice(place.part, weights, own_rows, results)

    def _results(
        self, name: str, place: _Place, weights: LoraWeights | None
    ) -> ScaleAndShift | None:
        scale_O = torch.ones(place.num_outputs)
        shift_O = torch.zeros(place.num_outputs)
        has_magnitude = weights is not None and weights.magnitude_O is not None
        if weights is not None and weights.magnitude_O is not None:
            weight_OI = self._weight(name)
            scale_O = row_scale(weight_OI, weights.a_RI, weights.b_OR, weights.magnitude_O)
        new_bias_O = self._adapter.replaced.get(f"{name}.bias")
        if place.bias_O is not None:
            bias_O = place.bias_O.float().cpu()
            if new_bias_O is not None and new_bias_O.shape != bias_O.shape:
                raise self._error(
                    f"'{name}.bias' has shape {tuple(new_bias_O.shape)}, "
                    f"the model's has {tuple(bias_O.shape)}"
                )
            # the results have the base's bias, which is not scaled
            shift_O += bias_O if new_bias_O is None else new_bias_O.float()
            shift_O -= bias_O * scale_O
        if weights is not None and weights.bias_O is not None:
            shift_O += weights.bias_O
        return ScaleAndShift(scale_O, shift_O) if has_magnitude or shift_O.any() else None

    def _matched_embedding(self) -> MatchedEmbedding | None:
        place = self._model.embedding
        if place is None:
            return None
        own_rows = self._own_rows(place.name, num_rows=place.num_tokens, size=place.size)
        weights = self._adapter.embedding.get(place.name)
        if weights is None:
            return None if own_rows is None else MatchedEmbedding(own_rows)
        self._check_shape(place.name, weights, wanted=(place.size, place.num_tokens))
        if self._adapter.initialization is not None:
            raise self._error(f"{place.name!r} cannot begin as {self._adapter.initialization!r}")
        scale_D, b_DR = None, weights.b_OR
        if weights.magnitude_O is not None:
            scale_D = column_scale(
                self._weight(place.name), weights.a_RI, b_DR, weights.magnitude_O
            )
            b_DR = b_DR * scale_D[:, None]
        return MatchedEmbedding(own_rows, scale_D, weights.a_RI.T.contiguous(), b_DR.T.contiguous())

    def _matched_norms(self) -> Iterator[tuple[str, Tensor]]:
        for name, (size, offset) in self._model.norms.items():
            weight_D = self._adapter.replaced.get(f"{name}.weight")
            if weight_D is None:
                continue
            if weight_D.shape != (size,):
                raise self._error(
                    f"'{name}.weight' has shape {tuple(weight_D.shape)}, the model's has {(size,)}"
                )
            yield name, weight_D.float() + offset

    def _own_rows(self, name: str, *, num_rows: int, size: int) -> OwnRows | None:
        whole = self._adapter.replaced.get(f"{name}.weight")
        if whole is None:
            whole = self._copies.get(name)
        if whole is not None:
            if whole.shape != (num_rows, size):
                raise self._error(
                    f"'{name}.weight' has shape {tuple(whole.shape)}, "
                    f"the model's has {(num_rows, size)}"
                )
            return OwnRows(None, whole)
        tokens = self._adapter.token_rows.get(name)
        if tokens is None and name == HEAD and self._is_tied:
            tokens = self._adapter.token_rows.get(str(self._embedding_name))
        if tokens is None:
            return None
        if tokens.rows_KD.shape[1] != size or max(tokens.token_ids) >= num_rows:
            raise self._error(
                f"{name!r} has trained tokens up to {max(tokens.token_ids)} of size "
                f"{tokens.rows_KD.shape[1]}; the model has {num_rows} of size {size}"
            )
        return OwnRows(torch.tensor(tokens.token_ids), tokens.rows_KD)

    @property
    def _is_tied(self) -> bool:
        return self._model.embedding is not None and self._model.embedding.is_tied

    def _relative_to_base(self, name: str, lora: LoraWeights) -> LoraWeights:
        initialization = self._adapter.initialization
        if initialization is None:
            return lora
        if name == HEAD and self._is_tied:
            raise self._error(
                f"init_lora_weights={initialization!r} on {HEAD!r} changed the embedding, "
                "which is tied to it"
            )
        weight_OI = self._base_tensor(f"{name}.weight")
        return without_initial_part(lora, weight_OI, initialization=initialization)

    def _differing_copies(self) -> Iterator[tuple[str, Tensor]]:
        """Copies of the base's embedding and head that are not what the base has, by module."""
        tied = {HEAD, self._embedding_name} if self._is_tied else set()
        for name, copy in self._adapter.base_copies.items():
            module = name.removesuffix(".weight")
            if module not in self._model.places and module != self._embedding_name:
                raise self._error(f"{name!r} is a copy of something that this model does not have")
            base = self._base_tensor(name)
            if base.shape != copy.shape:
                raise self._error(
                    f"{name!r} has shape {tuple(copy.shape)}, the model's has {tuple(base.shape)}"
                )
            if not torch.equal(base.to(copy.dtype), copy):
                for changed in tied if module in tied else {module}:
                    yield str(changed), copy

    def _weight(self, name: str) -> Tensor:
        """What an update is added to."""
        copy = self._copies.get(name)
        return self._base_tensor(f"{name}.weight") if copy is None else copy

    def _base_tensor(self, name: str) -> Tensor:
        if self._model.base is None:
            raise self._error(f"needs {name!r} of the base model as floats, which nobody has here")
        try:
            return self._model.base.read(name)
        except KeyError:
            raise self._error(
                f"needs {name!r}, which the base's checkpoint does not have"
            ) from None

    def _check_shape(self, name: str, lora: LoraWeights, *, wanted: tuple[int, int]) -> None:
        given = (lora.b_OR.shape[0], lora.a_RI.shape[1])
        if wanted != given:
            raise self._error(
                f"{name!r} is for a layer of shape {given[0]} x {given[1]}, "
                f"the model's is {wanted[0]} x {wanted[1]}"
            )

    def _error(self, complaint: str) -> AdapterError:
        # an adapter "was made for another model", or one of its parts has something wrong
        colon = "" if complaint.startswith(("was ", "needs ")) else ":"
        return AdapterError(f"adapter {str(self._adapter.path)!r}{colon} {complaint}")
