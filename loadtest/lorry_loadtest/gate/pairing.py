"""Puts the same requests of two runs beside each other."""

from __future__ import annotations

from dataclasses import dataclass

from lorry_loadtest.gate.limit import GateLimit
from lorry_loadtest.request_figures import RequestFigures
from lorry_loadtest.slo import Objective

MIN_PAIRS = 20


class NotComparable(ValueError):
    """Two runs that asked for different things; the text says how."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Places of the same request in two runs, in the order of the baseline's schedule."""

    a: RequestFigures
    b: RequestFigures
    places: tuple[tuple[int, int], ...]

    def latencies(self, limit: GateLimit) -> tuple[list[float], list[float]]:
        """Of the pairs in which both requests finished and have the latency."""
        column_a = getattr(self.a, limit.metric)
        column_b = getattr(self.b, limit.metric)
        both = [
            (column_a[i], column_b[j])
            for i, j in self.places
            if self.a.ok[i] and self.b.ok[j] and column_a[i] is not None and column_b[j] is not None
        ]
        return [first for first, _ in both], [second for _, second in both]

    def good(self, objectives: tuple[Objective, ...]) -> tuple[list[float], list[float]]:
        """1 where a request finished and met every objective, failures included as 0."""
        return (
            [float(_is_good(self.a, i, objectives)) for i, _ in self.places],
            [float(_is_good(self.b, j, objectives)) for _, j in self.places],
        )

    def tokens(self) -> tuple[list[float], list[float]]:
        return (
            [float(self.a.tokens[i]) for i, _ in self.places],
            [float(self.b.tokens[j]) for _, j in self.places],
        )

    def durations_s(self) -> tuple[list[float], list[float]]:
        return (
            [self.a.duration[i] / 1e3 for i, _ in self.places],
            [self.b.duration[j] / 1e3 for _, j in self.places],
        )


def pair(a: RequestFigures, b: RequestFigures) -> Pairs:
    """By index in the seeded stream. Raises NotComparable when the streams are not the same."""
    where = {index: place for place, index in enumerate(b.index)}
    common = [(i, where[index]) for i, index in enumerate(a.index) if index in where]
    same = tuple((i, j) for i, j in common if a.plan[i] == b.plan[j])
    if len(same) < 0.9 * len(common):
        raise NotComparable(
            f"only {len(same)} of {len(common)} requests with the same index are the same request: "
            "the runs differ in seed, adapters, lengths or route"
        )
    if len(same) < MIN_PAIRS:
        raise NotComparable(f"the runs have {len(same)} requests in common; {MIN_PAIRS} are needed")
    return Pairs(a, b, same)


def _is_good(figures: RequestFigures, place: int, objectives: tuple[Objective, ...]) -> bool:
    if not figures.ok[place]:
        return False
    for objective in objectives:
        value = getattr(figures, objective.metric)[place]
        if value is not None and value >= objective.limit_ms:
            return False
    return True
