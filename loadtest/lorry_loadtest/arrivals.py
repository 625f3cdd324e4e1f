"""When requests arrive in an open loop: absolute times, fixed before the run.

A process is a sequence of gaps of mean one. The rates stretch it: an arrival whose gaps add up to n
comes when n requests were due (time rescaling; Brown et al., "The Time-Rescaling Theorem", Neural
Computation 14, 2002), so steps and ramps keep the character of the process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from lorry_loadtest.rates import Rates, constant_rate, parse_rates
from lorry_loadtest.traces import Trace, read_trace

Process = Literal["constant", "poisson", "gamma"]

_FORMS = (
    "constant:RATE, poisson:RATE, gamma:RATE:cv=CV or trace:FILE[:SCALE]; "
    "a RATE is 6, 2x30s,4x30s or 1..10x60s"
)


class Arrival(Protocol):
    """An open loop's plan of times."""

    def times_s(self, *, seed: int | str, until_s: float) -> Iterator[float]:
        """Ascending seconds from the start of the run, all below `until_s`."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """`constant` gaps are all alike, `poisson` exponential, `gamma` of coefficient of variation
    `cv`: above 1 they come in bursts."""

    process: Process
    rates: Rates
    cv: float = 1.0

    def __post_init__(self) -> None:
        if not self.cv > 0:
            raise ValueError(f"the coefficient of variation is {self.cv:g}, not > 0")

    def times_s(self, *, seed: int | str, until_s: float) -> Iterator[float]:
        rng = random.Random(f"{seed}/arrivals")
        count = 0.0
        while True:
            count += self._gap(rng)
            t_s = self.rates.time_of(count)
            if t_s >= until_s:
                return
            yield t_s

    def _gap(self, rng: random.Random) -> float:
        match self.process:
            case "constant":
                return 1.0
            case "poisson":
                return rng.expovariate(1.0)
            case "gamma":
                shape = 1.0 / self.cv**2
                return rng.gammavariate(shape, 1.0 / shape)


@dataclass(frozen=True, slots=True)
class TraceArrivals:
    """The times of a recorded trace, times `scale`: 0.5 replays it twice as fast."""

    trace: Trace
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"the time scale of a trace is {self.scale:g}, not > 0")

    def times_s(self, *, seed: int | str, until_s: float) -> Iterator[float]:
        for request in self.trace.requests:
            if request.at_s * self.scale >= until_s:
                return
            yield request.at_s * self.scale


def parse_arrival(text: str) -> Arrivals | TraceArrivals:
    """Reads the forms above; ValueError says what was wrong, OSError that a trace is not there."""
    kind, _, rest = text.partition(":")
    if kind == "trace":
        path, _, scale = rest.rpartition(":")
        if path and _is_number(scale):
            return TraceArrivals(read_trace(path), float(scale))
        return TraceArrivals(read_trace(rest))
    if kind not in ("constant", "poisson", "gamma"):
        raise ValueError(f"arrival {text!r} is not {_FORMS}")
    rate, _, option = rest.partition(":")
    try:
        arrivals = Arrivals(kind, parse_rates(rate))  # type: ignore[arg-type]  # checked above
        if kind == "gamma":
            name, _, value = option.partition("=")
            if name != "cv":
                raise ValueError("bursts need :cv=, the coefficient of variation of the gaps")
            return replace(arrivals, cv=float(value))
        if option:
            raise ValueError(f"{option!r} means nothing for {kind}")
    except ValueError as exc:
        raise ValueError(f"arrival {text!r}: {exc}; it is {_FORMS}") from exc
    return arrivals


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def at_rate(arrival: Arrivals | TraceArrivals | None, rate: float) -> Arrivals:
    """The same process at one constant rate; Poisson's where there is no process."""
    if isinstance(arrival, Arrivals):
        return replace(arrival, rates=constant_rate(rate))
    return Arrivals("poisson", constant_rate(rate))
