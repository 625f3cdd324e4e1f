"""Which weights a request runs on: the base model, or an adapter that it leases until it ends."""

from __future__ import annotations

from starlette.types import Receive

from lorry_server.adapters.lease import AdapterLease
from lorry_server.errors import NotFoundError, RequestError
from lorry_server.http.disconnect import unless_disconnected
from lorry_server.http.parsing import shown
from lorry_server.http.serving import Serving

BASE_MODEL = "__base_model__"  # LoRAX's word for "no adapter"


def is_base_model(name: str, *, serving: Serving) -> bool:
    settings = serving.settings
    return (
        name in (settings.served_model_name, serving.engine.info.model_id)
        or name in settings.model_aliases
    )


async def choose_adapter(
    model: str, adapter_id: str | None, *, receive: Receive, serving: Serving
) -> AdapterLease | None:
    """Return a lease of what `model` or the `adapter_id` beside it names; None is the base.

    An empty `model` and an empty or null `adapter_id` say nothing. Waits while the adapter is
    loaded, unless the client leaves (`receive` is its request's, read to the end). Raises
    `NotFoundError` for a name that no source has, `RequestError` when the two name different
    weights, and what `AdapterLibrary.acquire` raises.
    """
    is_base = not model or is_base_model(model, serving=serving)
    if not adapter_id:
        if is_base:
            return None
        return await lease_adapter(model, param="model", receive=receive, serving=serving)
    if not is_base and adapter_id != model:
        raise RequestError(
            f"`model` names the adapter {shown(model)} and `adapter_id` {shown(adapter_id)}; "
            "give one of them, or the base model as `model`",
            param="adapter_id",
            code="conflicting_adapters",
        )
    return await find_adapter(adapter_id, receive=receive, serving=serving)


async def find_adapter(
    adapter_id: str | None, *, receive: Receive, serving: Serving
) -> AdapterLease | None:
    """Lease the adapter of this id; null, "", the base's id and `__base_model__` are the base."""
    if not adapter_id or adapter_id == BASE_MODEL or is_base_model(adapter_id, serving=serving):
        return None
    return await lease_adapter(adapter_id, param="adapter_id", receive=receive, serving=serving)


async def lease_adapter(
    name: str, *, param: str, receive: Receive, serving: Serving
) -> AdapterLease:
    library = serving.library
    leases: list[AdapterLease] = []

    async def acquire() -> None:
        leases.append(await library.acquire(name))

    try:
        if library.is_held(name):
            await acquire()
        else:
            await unless_disconnected(receive, acquire())
    except NotFoundError as exc:
        raise unknown_model(name, param=param, reason=str(exc)) from exc
    except BaseException:
        # The wait was ended in the moment in which it was over.
        for lease in leases:
            lease.release()
        raise
    return leases[0]


def unknown_model(name: str, *, param: str, reason: str | None = None) -> NotFoundError:
    why = "" if reason is None else f" ({reason})"
    return NotFoundError(
        f"The model {shown(name)} does not exist{why}. GET /v1/models lists those that do.",
        param=param,
    )


def wait_headers(lease: AdapterLease | None) -> dict[str, str]:
    """Tell a client that had to wait for its adapter how long, and where the adapter was."""
    if lease is None or lease.waited_ms is None:
        return {}
    return {"x-adapter-load-ms": f"{lease.waited_ms:.1f}", "x-adapter-tier": lease.tier}
