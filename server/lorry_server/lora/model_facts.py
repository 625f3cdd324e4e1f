"""`ModelFacts`: what must be known of a base model to say whether an adapter fits it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_server.errors import ModelError
from lorry_server.layers.linear import Linear
from lorry_server.lora.base_fingerprint import MAX_CONFIG_BYTES, fingerprint_of
from lorry_server.lora.raw_tensors import RawTensor, RawTensors

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One linear module of the checkpoint, and whether its weights are quantized where served."""

    out_features: int
    in_features: int
    is_quantized: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`layers` are the modules that adapters may target, by the model's own module path.

    `dtype` is that of updates on layers that are not quantized. `weights` reads from the model's
    files, range by range.
    """

    model_id: str
    dtype: str
    layers: Mapping[str, LayerFacts]
    fingerprint: str
    weights: RawTensors

    def weight_of(self, module: str) -> RawTensor | None:
        """The stored weight of a module; a head that is tied has the embedding's."""
        found = self.weights.get(f"{module}.weight")
        if found is None and module == HEAD:
            return self.weights.get(f"{EMBEDDING}.weight")
        return found


def layers_of(linears: Iterable[Linear]) -> dict[str, LayerFacts]:
    """The modules of a model that is loaded."""
    return {
        part.name: LayerFacts(
            out_features=part.stop - part.start,
            in_features=linear.in_features,
            is_quantized=linear.weight.is_quantized,
        )
        for linear in linears
        for part in linear.slices
    }


def read_model_facts(
    folder: Path,
    *,
    model_id: str,
    dtype: str,
    is_quantized: bool = False,
    layers: Mapping[str, LayerFacts] | None = None,
) -> ModelFacts:
    """The facts of the model in `folder`, from its config.json and the headers of its weights.

    `layers` are those of the loaded model, where there is one; without them every matrix of the
    checkpoint counts as a layer. Raises ModelError for a folder that cannot be read.
    """
    try:
        with (folder / "config.json").open("rb") as opened:
            config: dict[str, Any] = json.loads(opened.read(MAX_CONFIG_BYTES))
        weights = RawTensors.of_model(folder)
        fingerprint = fingerprint_of(config, weights)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ModelError(f"cannot read the model in {str(folder)!r}: {exc}") from exc
    if layers is None:
        layers = _layers_in(weights, is_quantized=is_quantized)
    return ModelFacts(model_id, dtype, layers, fingerprint, weights)


def _layers_in(weights: RawTensors, *, is_quantized: bool) -> dict[str, LayerFacts]:
    layers = {}
    for name in weights:
        shape = weights[name].shape
        module = name.removesuffix(".weight")
        if module != name and len(shape) == 2 and module != EMBEDDING:
            layers[module] = LayerFacts(*shape, is_quantized)
    embedding = weights.get(f"{EMBEDDING}.weight")
    if HEAD not in layers and embedding is not None:  # tied
        layers[HEAD] = LayerFacts(embedding.shape[0], embedding.shape[1], is_quantized)
    return layers
