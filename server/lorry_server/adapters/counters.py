"""`LibraryCounters`: what the library has done so far, in numbers that only grow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from lorry_server.adapters.info import PHASES, TIERS, LoadTimes, Tier


@dataclass(slots=True)
class LibraryCounters:
    """`hits` counts requests by the tier that had their adapter; `seconds` loads by phase."""

    num_loaded: int = 0
    num_failed: int = 0
    hits: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(TIERS, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    def loaded(self, times: LoadTimes) -> None:
        self.num_loaded += 1
        for phase, ms in asdict(times).items():
            self.seconds[phase] += ms / 1000

    def failed(self) -> None:
        self.num_failed += 1

    def hit(self, tier: Tier) -> None:
        self.hits[tier] += 1
