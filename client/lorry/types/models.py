"""`GET /v1/models`: the base model and one card per adapter."""

from __future__ import annotations

from msgspec import Struct


class AdapterDetails(Struct, frozen=True):
    """What the adapter is: `rank` is its largest, `digest` the hash of its weights and config."""

    rank: int
    alpha: float
    target_modules: list[str]
    digest: str
    num_bytes: int


class ModelCard(Struct, frozen=True):
    """`root` is where it was loaded from; an adapter's `parent` is the base model's id."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "lorry"
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    adapter: AdapterDetails | None = None


class ModelList(Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"
