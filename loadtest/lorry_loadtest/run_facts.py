"""What a verdict needs to know beside the records: observations, locust's table, what was declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lorry_loadtest.observations import Observations

ArrivalKind = Literal["closed", "constant", "poisson", "gamma", "trace", "shape", "mixed"]


@dataclass(frozen=True, slots=True)
class LocustTable:
    """What locust's own table says about the same attempts; milliseconds."""

    num_requests: int
    p50_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True, slots=True)
class DeclaredLoad:
    """What the run meant to send.

    `shape` is a load that changes by plan, and `mixed` several open loops beside each other.
    `rate_per_s` and `arrival_cv` (standard deviation over mean of the times between arrivals) are
    of an open loop. `adapter_shares` are wanted shares by name, None the base model,
    and each draw among them is for `requests_per_draw` requests: the turns of a conversation.
    `cached_share` is the share of prompt tokens that a prefix cache may find. With `counts_tokens`
    a planned word of a prompt is about one token, which of given texts nobody knows.
    `exact_lengths` says that answers are asked for in full length (`ignore_eos`).
    """

    arrival: ArrivalKind = "closed"
    rate_per_s: float | None = None
    arrival_cv: float | None = None
    adapter_shares: Mapping[str | None, float] = field(default_factory=dict)
    requests_per_draw: int = 1
    cached_share: float = 0.0
    exact_lengths: bool = False
    counts_tokens: bool = True


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All of it for one level; what nobody measured is None or empty, and is then not checked."""

    observations: Observations = field(default_factory=Observations)
    declared: DeclaredLoad = field(default_factory=DeclaredLoad)
    locust: LocustTable | None = None
