"""`LibrarySettings`: what an operator may set about loading and keeping adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorry_server.adapters.load_threads import MAX_THREADS
from lorry_server.adapters.names import KEPT_VERSIONS

# A source that needs longer than requests wait is given this much of their patience in all.
GIVE_UP_FACTOR = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LibrarySettings:
    """`load_timeout_s` is how long a request waits for its adapter; the load may take longer.

    `host_memory_bytes` is for prepared adapters, None without a limit. A load that failed is not
    tried again for `failure_memory_s`. `weights` are the shares of names, 1 where it has none.
    """

    load_timeout_s: float = 60.0
    failure_memory_s: float = 10.0
    host_memory_bytes: int | None = None
    kept_versions: int = KEPT_VERSIONS
    weights: Mapping[str, float] = field(default_factory=dict)
    max_loads: int = MAX_THREADS

    @property
    def give_up_s(self) -> float:
        """When a load that nothing comes of is counted as failed."""
        return GIVE_UP_FACTOR * self.load_timeout_s
