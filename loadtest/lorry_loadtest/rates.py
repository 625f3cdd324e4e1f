"""How fast requests or users come over time: a few stretches, each level or a ramp.

One way of writing it serves the arrivals of an open loop (per second) and the number of users of a
closed one: `6`, `2x30s,4x30s` (steps) or `1..10x60s` (a ramp). A number alone holds for ever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_STRETCH = re.compile(r"(\d+(?:\.\d+)?)(?:\.\.(\d+(?:\.\d+)?))?(?:x(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True, slots=True)
class Stretch:
    """From `start` to `end` per second, evenly, in `duration_s` seconds."""

    start: float
    end: float
    duration_s: float

    @property
    def total(self) -> float:
        """How many come in all of it."""
        return (self.start + self.end) / 2 * self.duration_s

    def time_of(self, count: float) -> float:
        """Seconds until `count` of them have come; 0 <= count <= total."""
        if self.start == self.end or math.isinf(self.duration_s):
            return count / self.start
        slope = (self.end - self.start) / self.duration_s
        # the positive root of slope/2 t^2 + start t - count, in the form without cancellation
        return 2 * count / (self.start + math.sqrt(max(0.0, self.start**2 + 2 * slope * count)))


@dataclass(frozen=True, slots=True)
class Rates:
    """Stretches one after the other; after the last there is nothing."""

    stretches: tuple[Stretch, ...]

    def __post_init__(self) -> None:
        for stretch in self.stretches:
            if not stretch.duration_s > 0:
                raise ValueError(f"a rate for {stretch.duration_s:g} s")
        if not any(stretch.total > 0 for stretch in self.stretches):
            raise ValueError("a rate of 0 brings nobody")

    @property
    def duration_s(self) -> float:
        return sum(stretch.duration_s for stretch in self.stretches)

    def at(self, t_s: float) -> float | None:
        """The rate at a time, None when it is over."""
        for stretch in self.stretches:
            if t_s < stretch.duration_s:
                if math.isinf(stretch.duration_s):
                    return stretch.start
                done = t_s / stretch.duration_s
                return stretch.start + (stretch.end - stretch.start) * done
            t_s -= stretch.duration_s
        return None

    def time_of(self, count: float) -> float:
        """Seconds until `count` have come, infinite when so many never do."""
        passed_s = 0.0
        for stretch in self.stretches:
            if count <= stretch.total:
                return passed_s + stretch.time_of(count)
            count -= stretch.total
            passed_s += stretch.duration_s
        return math.inf


def constant_rate(rate: float) -> Rates:
    return Rates((Stretch(rate, rate, math.inf),))


def steps(levels: Sequence[tuple[float, float]]) -> Rates:
    """Of pairs (rate, seconds)."""
    return Rates(tuple(Stretch(rate, rate, seconds) for rate, seconds in levels))


_TICK_S = 1.0
_LONGEST_SHAPE_S = 86_400.0


def rates_of_shape(shape: Any) -> Rates:
    """What a load shape of locust's asks for, second by second, read before the run.

    Raises ValueError for a shape that never ends or that never asks for anyone.
    """
    clock = [0.0]
    shape.get_run_time = lambda: clock[0]
    stretches: list[Stretch] = []
    try:
        while (asked := shape.tick()) is not None:
            if clock[0] >= _LONGEST_SHAPE_S:
                raise ValueError(f"the shape {type(shape).__name__} does not end within a day")
            stretches.append(Stretch(float(asked[0]), float(asked[0]), _TICK_S))
            clock[0] += _TICK_S
    finally:
        del shape.get_run_time
    return Rates(tuple(stretches))


def parse_rates(text: str) -> Rates:
    """Reads `6`, `2x30s,4x30s`, `1..10x60s`; ValueError names the part that is wrong."""
    stretches = []
    parts = text.split(",")
    for part in parts:
        match = _STRETCH.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part!r} is not a rate such as 6, 2x30s or 1..10x60s")
        start, end, seconds = match.groups()
        if seconds is None and (end is not None or len(parts) > 1):
            raise ValueError(f"{part!r} needs its seconds, as in {part}x30s")
        stretches.append(
            Stretch(
                float(start), float(end or start), math.inf if seconds is None else float(seconds)
            )
        )
    return Rates(tuple(stretches))
