"""Asks the server which base model and which adapters it has."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.http_get import GetFailed, http_get


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
        body = http_get(endpoint, "/v1/models", api_key=api_key, timeout_s=timeout_s)
    except GetFailed as exc:
        raise CatalogError(f"no server at {endpoint}: {exc}") from exc
    try:
        cards = msgspec.json.decode(body, type=_Cards).data
    except msgspec.MsgspecError as exc:
        raise CatalogError(f"{endpoint}/v1/models is no list of models: {exc}") from exc
    bases = [card.id for card in cards if card.parent is None]
    if not bases:
        raise CatalogError(f"{endpoint}/v1/models lists no base model")
    return Catalog(bases[0], tuple(card.id for card in cards if card.parent == bases[0]))
