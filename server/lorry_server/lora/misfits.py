"""What of an adapter a model has no place for, by name: unknown modules and other shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lorry_server.lora.adapter import Adapter
from lorry_server.lora.model_facts import EMBEDDING, ModelFacts
from lorry_server.lora.module_names import LayerNames, Unmatched, natural_order

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WrongShape:
    """A module or tensor that is not for the one of that name, sizes given and wanted."""

    module: str
    given: Shape
    wanted: Shape


@dataclass(frozen=True, slots=True)
class Misfits:
    unmatched: tuple[Unmatched, ...] = ()
    wrong_shapes: tuple[WrongShape, ...] = ()


def find_misfits(adapter: Adapter, model: ModelFacts | None) -> Misfits:
    """Compare names and shapes of everything that an adapter changes; without a model nothing."""
    if model is None:
        return Misfits()
    names = LayerNames(model.layers)
    unmatched, wrong_shapes = [], []
    parts = sorted(_parts(adapter, model), key=lambda part: natural_order(part[0]))
    for name, given, wanted in parts:
        if wanted is None:
            unmatched.append(names.explain(name))
        elif given != wanted:
            wrong_shapes.append(WrongShape(name, given, wanted))
    return Misfits(tuple(unmatched), tuple(wrong_shapes))


def _parts(adapter: Adapter, model: ModelFacts) -> Iterator[tuple[str, Shape, Shape | None]]:
    """Each part's name, its shape, and the model's; None for a name that the model does not have."""
    for name, weights in adapter.modules.items():
        layer = model.layers.get(name)
        given = (weights.b_OR.shape[0], weights.a_RI.shape[1])
        yield name, given, None if layer is None else layer.shape
    for name, weights in adapter.embedding.items():
        given = (weights.a_RI.shape[1], weights.b_OR.shape[0])  # tokens x sizes, as they are stored
        yield name, given, _stored_shape(model, name)
    for name, tensor in adapter.replaced.items():
        module, _, kind = name.rpartition(".")
        # a norm is in the model's files and no layer; what may be replaced is the runner's to say
        stored = model.weights.get(name) or model.weight_of(module)
        if kind == "bias" and name not in model.weights and module in model.layers:
            continue
        yield name, tuple(tensor.shape), None if stored is None else stored.shape
    for name, tokens in adapter.token_rows.items():
        shape = _stored_shape(model, name)
        width = tokens.rows_KD.shape[1]
        if shape is None:
            yield name, (), None
        else:
            num_rows = max(shape[0], max(tokens.token_ids, default=-1) + 1)
            yield name, (num_rows, width), shape


def _stored_shape(model: ModelFacts, module: str) -> Shape | None:
    """That of a module's weight in the model's files; adapters change layers and the embedding."""
    if module not in model.layers and module != EMBEDDING:
        return None
    stored = model.weight_of(module)
    return None if stored is None else stored.shape
