"""`/v1/adapters`: load, replace, look at and unload adapters while the server runs."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from lorry.types.adapters import AdapterList, DeletedAdapter, PutAdapter
from lorry_server.adapters.sources.source_url import is_url, parse_url
from lorry_server.errors import AdapterLoadError, NotFoundError, RequestError
from lorry_server.http.adapter_card import adapter_card
from lorry_server.http.disconnect import unless_disconnected
from lorry_server.http.json_response import json_response
from lorry_server.http.parsing import parse_body, shown
from lorry_server.http.serving import Serving


@dataclass(frozen=True, slots=True)
class AdaptersEndpoint:
    serving: Serving

    async def list(self, request: Request) -> Response:
        cards = [adapter_card(info) for info in self.serving.library.list()]
        return json_response(AdapterList(data=cards))

    async def retrieve(self, request: Request) -> Response:
        """Show a name, or with `name@prefix` one of its versions."""
        name = request.path_params["name"]
        info = self.serving.library.find(name)
        if info is None:
            raise unknown_adapter(name)
        return json_response(adapter_card(info))

    async def put(self, request: Request) -> Response:
        """Load a source under a new name, or in place of what has the name.

        A client that leaves ends its wait and not the load.
        """
        name = request.path_params["name"]
        wanted = await parse_body(
            request, PutAdapter, timeout_s=self.serving.settings.body_timeout_s
        )
        check_source(wanted.source, param="source")
        library = self.serving.library
        is_new = library.find(name) is None
        try:
            info = await unless_disconnected(
                request.receive,
                library.load(
                    name,
                    wanted.source,
                    replace=True,
                    pinned=wanted.pinned,
                    preload=wanted.preload,
                ),
            )
        except AdapterLoadError as exc:
            raise load_refusal(exc, param="source") from exc
        return json_response(adapter_card(info), status=201 if is_new else 200)

    async def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            self.serving.library.unload(name)
        except NotFoundError as exc:
            raise unknown_adapter(name) from exc
        return json_response(DeletedAdapter(id=name))


def check_source(source: str, *, param: str) -> None:
    """Refuse what no path and no URL is, before anything is started for it."""
    if not source or not source.isprintable():
        raise RequestError(
            f"`{param}` must be a path or a URL of printable characters. Given: {shown(source)}",
            param=param,
            code="invalid_value",
        )
    if is_url(source):
        try:
            parse_url(source)
        except ValueError as exc:
            raise RequestError(f"`{param}`: {exc}", param=param, code="invalid_value") from exc


def load_refusal(error: AdapterLoadError, *, param: str) -> RequestError:
    """Whoever asks for a load is at fault for its source: 404 when nothing is there, else 400."""
    return RequestError(
        str(error),
        param=param,
        code="adapter_not_found" if error.is_missing else "adapter_load_failed",
        status=404 if error.is_missing else 400,
    )


def unknown_adapter(name: str) -> NotFoundError:
    return NotFoundError(
        f"The adapter {shown(name)} does not exist. GET /v1/adapters lists those that do.",
        param="name",
    )
