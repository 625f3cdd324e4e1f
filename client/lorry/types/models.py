"""`GET /v1/models`: the base model and one card per adapter."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class AdapterDetails(Struct, frozen=True):
    """What the adapter is: `rank` is its largest, `digest` the hash of its weights and config.

    `defaults` are those of its contract: what a request gets that says nothing.
    """

    rank: int
    alpha: float
    target_modules: list[str]
    digest: str
    num_bytes: int
    defaults: dict[str, Any] | None = None


class ModelCard(Struct, frozen=True):
    """`root` is where it was loaded from; an adapter's `parent` is the base model's id.

    `description` is the adapter's own.
    """

    id: str
    created: int
    object: str = "model"
    owned_by: str = "lorry"
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    description: str | None = None
    adapter: AdapterDetails | None = None


class ModelList(Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"
