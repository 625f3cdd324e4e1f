"""Asks the server which base model and which adapters it has."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from lorry_loadtest.connection import Connection
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.http1 import MalformedHttp, ResponseReader, encode_request
from lorry_loadtest.outcomes import AttemptFailed


class CatalogError(Exception):
    """The list of models could not be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Catalog:
    base_model: str
    adapters: tuple[str, ...]


class _Card(msgspec.Struct, frozen=True):
    id: str
    parent: str | None = None


class _Cards(msgspec.Struct, frozen=True):
    """As much of `lorry.types.models.ModelList` as other servers send too."""

    data: list[_Card]


def fetch_catalog(endpoint: Endpoint, *, api_key: str | None, timeout_s: float = 10.0) -> Catalog:
    """`GET /v1/models`: the card without `parent` is the base model, those with one are adapters.

    Raises CatalogError when there is no such server or its answer is something else.
    """
    try:
        body = _get(endpoint, api_key=api_key, timeout_s=timeout_s)
    except (AttemptFailed, OSError, MalformedHttp) as exc:
        raise CatalogError(f"no server at {endpoint}: {exc or 'it does not answer'}") from exc
    try:
        cards = msgspec.json.decode(body, type=_Cards).data
    except msgspec.MsgspecError as exc:
        raise CatalogError(f"{endpoint}/v1/models is no list of models: {exc}") from exc
    bases = [card.id for card in cards if card.parent is None]
    if not bases:
        raise CatalogError(f"{endpoint}/v1/models lists no base model")
    return Catalog(bases[0], tuple(card.id for card in cards if card.parent == bases[0]))


def _get(endpoint: Endpoint, *, api_key: str | None, timeout_s: float) -> bytes:
    headers = {"Accept": "application/json", "Connection": "close"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    deadline_ns = time.perf_counter_ns() + round(timeout_s * 1e9)
    connection = Connection(endpoint, connect_timeout_s=timeout_s)
    reader = ResponseReader()
    body = b""
    try:
        connection.open()
        connection.send(encode_request("GET", "/v1/models", endpoint=endpoint, headers=headers))
        while not reader.complete:
            _, data = connection.receive(deadline_ns=deadline_ns)
            body += reader.feed(data)
            if not data and not reader.feed_eof():
                raise AttemptFailed("truncated", "it closed the connection")
    finally:
        connection.close()
    if reader.status != 200:
        text = body[:200].decode("utf-8", "replace")
        raise AttemptFailed("http_other", f"GET /v1/models answered {reader.status}: {text}")
    return body
