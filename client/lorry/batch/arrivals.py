"""When the requests of an open loop are due: schedules that wait for no answer.

A closed loop sends the next request when an earlier one has ended, so a slow server is asked less.
An open loop sends at times that are fixed beforehand, as users do who do not know of each other.
Times are absolute, so one that was missed does not shift those behind it.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Protocol, runtime_checkable


@runtime_checkable
class Arrivals(Protocol):
    """A schedule; each call of `offsets_s` gives the same one from its beginning."""

    def offsets_s(self) -> Iterator[float]:
        """Seconds from the start of the run, never descending; the run ends where they end."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """One request every 1 / `requests_per_s` seconds, the first at once."""

    requests_per_s: float

    def __post_init__(self) -> None:
        _check_positive("requests_per_s", self.requests_per_s)

    def offsets_s(self) -> Iterator[float]:
        return (number / self.requests_per_s for number in count())


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent users: gaps are exponential with mean 1 / `requests_per_s`."""

    requests_per_s: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive("requests_per_s", self.requests_per_s)

    def offsets_s(self) -> Iterator[float]:
        draw = random.Random(self.seed)
        at_s = 0.0
        while True:
            at_s += draw.expovariate(self.requests_per_s)
            yield at_s


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gaps of a gamma distribution with mean 1 / `requests_per_s`.

    `variation` is their coefficient of variation (standard deviation over mean): 1 is `Poisson`,
    more comes in bursts, less is more regular.
    """

    requests_per_s: float
    variation: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive("requests_per_s", self.requests_per_s)
        _check_positive("variation", self.variation)

    def offsets_s(self) -> Iterator[float]:
        draw = random.Random(self.seed)
        shape = 1 / self.variation**2
        scale_s = 1 / (self.requests_per_s * shape)
        at_s = 0.0
        while True:
            at_s += draw.gammavariate(shape, scale_s)
            yield at_s


@dataclass(frozen=True, slots=True)
class Trace:
    """Times that were recorded, in seconds from the start; the run ends with the last of them."""

    times_s: tuple[float, ...]

    def __init__(self, times_s: Sequence[float]) -> None:
        times = tuple(float(time_s) for time_s in times_s)
        if not all(math.isfinite(time_s) and time_s >= 0 for time_s in times):
            raise ValueError("a trace holds a time that is negative or not finite")
        if any(later < earlier for earlier, later in pairwise(times)):
            raise ValueError("the times of a trace must not descend")
        object.__setattr__(self, "times_s", times)

    def __repr__(self) -> str:
        span = f", {self.times_s[0]:g} to {self.times_s[-1]:g} s" if self.times_s else ""
        # the checksum tells one trace from another where all that is known is how they print
        checksum = zlib.crc32(repr(self.times_s).encode())
        return f"Trace({len(self.times_s)} times{span}, {checksum:08x})"

    def offsets_s(self) -> Iterator[float]:
        return iter(self.times_s)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be a positive number")
