"""`/v1/adapters`: what an adapter is, where it lies, and how it came."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

# Bounds of the texts, so that an error can show them.
MAX_NAME_CHARS = 512
MAX_SOURCE_CHARS = 4096

Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
Source = Annotated[str, Meta(max_length=MAX_SOURCE_CHARS)]


class LoadTimes(Struct, frozen=True):
    """Milliseconds of each phase of the last load."""

    fetch: float
    read: float
    check: float
    prepare: float


class AdapterCard(Struct, frozen=True):
    """One name. `digest` identifies the version that it stands for now.

    `state` is "ready", "loading", "failed" or "known" (its source is, it was not loaded yet);
    `tier` is "device", "host" or "disk", the fastest that holds it; `num_bytes` is what it takes
    there. `versions` has the digests that `name@prefix` can choose, the current one first. `error`
    says why the last load failed.
    """

    id: str
    source: str
    state: str
    object: str = "adapter"
    digest: str | None = None
    tier: str | None = None
    pinned: bool = False
    num_bytes: int | None = None
    rank: int | None = None
    alpha: float | None = None
    target_modules: list[str] = []
    features: list[str] = []
    requests_in_flight: int = 0
    versions: list[str] = []
    load_ms: LoadTimes | None = None
    unmatched_tensors: list[str] = []
    doctor: dict[str, Any] | None = None
    contract: dict[str, Any] | None = None
    error: str | None = None


class AdapterList(Struct, frozen=True):
    data: list[AdapterCard]
    object: str = "list"


class PutAdapter(Struct, frozen=True, forbid_unknown_fields=True):
    """Load `source` under the name in the path, in place of what has the name now.

    With `preload` false it is loaded when the first request asks for it. A `pinned` adapter is
    not taken out of memory to make room.
    """

    source: Source
    pinned: bool = False
    preload: bool = True


class DeletedAdapter(Struct, frozen=True):
    id: str
    object: str = "adapter"
    deleted: bool = True


class LoadLoraAdapter(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of vLLM's `/v1/load_lora_adapter`. Without `load_inplace` the name must be new."""

    lora_name: Name = ""
    lora_path: Source = ""
    load_inplace: bool = False
    is_3d_lora_weight: bool = False


class UnloadLoraAdapter(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of vLLM's `/v1/unload_lora_adapter`."""

    lora_name: Name = ""
    lora_int_id: int | None = None
