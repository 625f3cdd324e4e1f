"""`Limit`: so many calls in flight at once, and no more, if wished with a share for each adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from lorry.errors import ClientError
from lorry.limits.base import Limiter
from lorry.limits.gate import Gate
from lorry.limits.lanes import DeficitRoundRobin, FirstCome, Lane
from lorry.limits.several import SeveralLimits
from lorry.per_loop import PerLoop
from lorry.timing import Timing


class Limit:
    """At most `max_in_flight` calls at once in an event loop; the others wait in this process.

    `per_adapter` limits the calls of one adapter (the base model counts as one), so that many for
    one cannot take all places. With `fair`, adapters that want more than there is take turns, and
    share alike in tokens: the estimate of prompt and completion that every call comes with. Without
    it, whoever asked first goes first. Raises ValueError for a limit below 1.
    """

    def __init__(
        self, max_in_flight: int, *, per_adapter: int | None = None, fair: bool = False
    ) -> None:
        self.max_in_flight = at_least_one("max_in_flight", max_in_flight)
        self.per_adapter = None if per_adapter is None else at_least_one("per_adapter", per_adapter)
        self.fair = fair
        self._has_lanes = fair or per_adapter is not None
        self._gates = PerLoop(self._new_gate)

    def __repr__(self) -> str:
        shares = "" if self.per_adapter is None else f", per_adapter={self.per_adapter}"
        return f"Limit({self.max_in_flight}{shares}{', fair=True' if self.fair else ''})"

    @property
    def num_queued(self) -> int:
        return sum(gate.num_waiting for gate in self._gates.values())

    @property
    def num_in_flight(self) -> int:
        return sum(gate.num_inside for gate in self._gates.values())

    async def acquire(self, *, adapter: str | None, num_tokens: int) -> Place:
        gate = self._gates.get()
        lane = await gate.enter(adapter if self._has_lanes else None, max(1, num_tokens))
        return Place(gate, lane)

    def _new_gate(self, loop: asyncio.AbstractEventLoop) -> Gate:
        return Gate(
            loop,
            capacity=self.max_in_flight,
            turns=DeficitRoundRobin() if self.fair else FirstCome(),
            max_per_lane=self.per_adapter,
        )


class Place:
    """A permit of `Limit`."""

    __slots__ = ("_gate", "_lane")

    def __init__(self, gate: Gate, lane: Lane) -> None:
        self._gate = gate
        self._lane: Lane | None = lane

    def release(self, *, outcome: ClientError | None, timing: Timing) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            self._gate.leave(lane)


LimitLike: TypeAlias = int | Limiter | Sequence[int | Limiter]


def as_limiter(given: LimitLike | None) -> Limiter | None:
    """A number is a `Limit`, a list all of its limits; None is no limit.

    Raises TypeError for anything else, ValueError for an empty list.
    """
    if given is None or (isinstance(given, Limiter) and not isinstance(given, type)):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return Limit(given)
    if isinstance(given, Sequence) and not isinstance(given, str):
        limits = [limit for each in given if (limit := as_limiter(each)) is not None]
        if not limits:
            raise ValueError("limit is an empty list; None is no limit")
        return limits[0] if len(limits) == 1 else SeveralLimits(limits)
    raise TypeError(
        f"limit is a {type(given).__name__}; it must be a number of calls, a Limit, "
        "an AdaptiveLimit, a RateLimit, another Limiter, or a list of them"
    )


def at_least_one(name: str, value: int) -> int:
    """Check a limit; raises ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return value
