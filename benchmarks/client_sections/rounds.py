"""Contestants in turn, several rounds: the samples of each, and how one table shows them."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from client_sections.closed_loop import Sample, closed_loop, gathered
from client_sections.contestants import Opening


@dataclass
class Samples:
    """The rounds of one contestant; `is_too_slow` when one of them did not end in its time."""

    rounds: list[Sample] = field(default_factory=list)
    is_too_slow: bool = False

    @property
    def cpu_us_per_request(self) -> float:
        return statistics.median(sample.cpu_us_per_request for sample in self.rounds)

    @property
    def requests_per_s(self) -> float:
        return statistics.median(sample.requests_per_s for sample in self.rounds)

    @property
    def errors(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for sample in self.rounds:
            for name, count in sample.errors.items():
                found[name] = found.get(name, 0) + count
        return found

    def shown(self) -> str:
        if not self.rounds:
            return "not done within the limit of time"
        errors = ", ".join(f"{count} {name}" for name, count in self.errors.items())
        return (
            f"{self.cpu_us_per_request:.0f} us CPU/request, {self.requests_per_s:.0f}/s, "
            f"errors: {errors or 'none'}"
        )

    def raw(self) -> dict[str, Any]:
        return {
            "is_too_slow": self.is_too_slow,
            "rounds": [asdict(sample) for sample in self.rounds],
        }


# measures once; returns None if it took too long
Measure = Callable[..., Sample | None]


def here(opening: Opening, url: str, *, limit_s: float) -> Measure:
    """A contestant of this process, in an event loop of its own for each measurement."""

    def measure(kind: str, **work: Any) -> Sample | None:
        return asyncio.run(_measure(opening, url, kind, work, limit_s))

    return measure


def in_turn(
    contestants: Mapping[str, Measure], rounds: int, kind: str, **work: Any
) -> dict[str, Samples]:
    """Each contestant once a round; one that was too slow is not asked again."""
    samples = {name: Samples() for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            if samples[name].is_too_slow:
                continue
            sample = measure(kind, **work)
            if sample is None:
                samples[name].is_too_slow = True
            else:
                samples[name].rounds.append(sample)
    return samples


async def _measure(
    opening: Opening, url: str, kind: str, work: dict[str, Any], limit_s: float
) -> Sample | None:
    try:
        async with asyncio.timeout(limit_s), opening(url) as call:
            if kind == "gathered":
                return await gathered(call, **work)
            return await closed_loop(call, **work)
    except TimeoutError:
        return None
