"""Which weights a request runs on: the base model, or one of the loaded adapters."""

from __future__ import annotations

from lorry_server.engine.client import AdapterInfo, EngineClient
from lorry_server.errors import NotFoundError, RequestError
from lorry_server.http.parsing import shown
from lorry_server.http.settings import HttpSettings

BASE_MODEL = "__base_model__"  # LoRAX's word for "no adapter"


def is_base_model(name: str, *, engine: EngineClient, settings: HttpSettings) -> bool:
    return (
        name in (settings.served_model_name, engine.info.model_id) or name in settings.model_aliases
    )


def choose_adapter(
    model: str, adapter_id: str | None, *, engine: EngineClient, settings: HttpSettings
) -> AdapterInfo | None:
    """Return the adapter that `model` or the `adapter_id` beside it names; None is the base.

    An empty `model` and an empty or null `adapter_id` say nothing. Raises `NotFoundError` for a
    name that is not loaded, and `RequestError` when the two name different weights.
    """
    by_model = None
    is_base = not model or is_base_model(model, engine=engine, settings=settings)
    if not is_base:
        by_model = engine.find_adapter(model)
        if by_model is None:
            raise unknown_model(model, param="model")
    if not adapter_id:
        return by_model
    by_id = find_adapter(adapter_id, engine=engine, settings=settings)
    if by_model is not None and by_id != by_model:
        raise RequestError(
            f"`model` names the adapter {shown(model)} and `adapter_id` {shown(adapter_id)}; "
            "give one of them, or the base model as `model`",
            param="adapter_id",
            code="conflicting_adapters",
        )
    return by_id


def find_adapter(
    adapter_id: str | None, *, engine: EngineClient, settings: HttpSettings
) -> AdapterInfo | None:
    """Return the adapter of this id; null, "", the base's id and `__base_model__` are the base."""
    if not adapter_id or adapter_id == BASE_MODEL:
        return None
    adapter = engine.find_adapter(adapter_id)
    if adapter is None and not is_base_model(adapter_id, engine=engine, settings=settings):
        raise unknown_model(adapter_id, param="adapter_id")
    return adapter


def unknown_model(name: str, *, param: str) -> NotFoundError:
    return NotFoundError(
        f"The model {shown(name)} does not exist. GET /v1/models lists those that do.",
        param=param,
    )
