"""What there is to know about an adapter: facts of a version, times of a load, and a whole entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lorry_server.adapters.contract import Contract

State = Literal["ready", "loading", "failed", "known"]
Tier = Literal["device", "host", "disk"]
TIERS: tuple[Tier, ...] = ("device", "host", "disk")
PHASES = ("fetch", "read", "check", "prepare")


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """Milliseconds of each phase of a load. Waiting for a turn counts as no phase."""

    fetch: float = 0.0
    read: float = 0.0
    check: float = 0.0
    prepare: float = 0.0


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """One version: what does not change as long as the digest is the same.

    `num_bytes` is what it takes in memory, host or device. `doctor` is the report of what was
    checked at load, `contract` what stands beside the weights.
    """

    digest: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    num_bytes: int
    unmatched_tensors: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    doctor: Mapping[str, Any] | None = None
    contract: Contract | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """A name at one moment. `facts` and `tier` are those of the version that it stands for.

    `versions` has the digests that `name@prefix` can choose, the current one first. `error` says
    why the last load failed.
    """

    name: str
    source: str
    state: State
    tier: Tier | None = None
    facts: AdapterFacts | None = None
    times: LoadTimes | None = None
    is_pinned: bool = False
    requests_in_flight: int = 0
    versions: tuple[str, ...] = field(default=())
    error: str | None = None
