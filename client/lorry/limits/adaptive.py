"""`AdaptiveLimit`: as many calls in flight as the server stands, found out from its answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from lorry.errors import ClientError, DeadlineExceeded, Overloaded
from lorry.limits.fixed import at_least_one
from lorry.limits.gate import Gate
from lorry.limits.lanes import FirstCome, Lane
from lorry.per_loop import PerLoop
from lorry.timing import Timing

# what is left of the limit after an answer 429 or 503
BACKOFF = 0.75
# a round of late first tokens lowers the limit in proportion, within these
SMALLEST_GRADIENT = 0.5
LARGEST_GRADIENT = 0.95
TRACE_LENGTH = 4096

Cause = Literal["start", "grew", "overloaded", "late"]


class LimitChange(NamedTuple):
    """The limit that holds from `t_ns` (`time.perf_counter_ns`) on, and why it was changed."""

    t_ns: int
    limit: int
    cause: Cause


class AdaptiveLimit:
    """At most `limit` calls in flight, which moves between `min` and `max` and begins at `start`.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989), once in a round: a round is
    as many calls as the limit allows, all admitted since the limit last moved. An answer 429 or 503
    ends a round and takes a quarter off. With `target_ttft` (seconds) a round whose mean time to
    first token is later than that lowers the limit in proportion, at most by half; only streams
    have such a time, and streams that ran out of time before their first token count as late.
    After a round with neither, the limit grows by one, or doubles until it is first lowered,
    provided that all places were taken at some moment of the round.

    `trace` holds the last 4096 changes. The limit that was found is kept from one event loop to
    the next. Raises ValueError for limits that are not in order or below 1.
    """

    def __init__(
        self,
        *,
        min: int = 4,
        start: int = 20,
        max: int = 512,
        target_ttft: float | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._min = at_least_one("min", min)
        self._max = at_least_one("max", max)
        if not min <= at_least_one("start", start) <= max:
            raise ValueError(f"min, start, max are {min}, {start}, {max}; they must be in order")
        if target_ttft is not None and not (math.isfinite(target_ttft) and target_ttft > 0):
            raise ValueError(f"target_ttft is {target_ttft}; it must be a positive number")
        self._target_ttft = target_ttft
        self._clock = clock
        self._exact = float(start)
        self._was_lowered = False
        self._round = 0
        self._trace: deque[LimitChange] = deque(maxlen=TRACE_LENGTH)
        self._gates = PerLoop(self._new_gate)
        self._begin_round("start")

    def __repr__(self) -> str:
        target = "" if self._target_ttft is None else f", target_ttft={self._target_ttft:g}"
        return f"AdaptiveLimit(min={self._min}, max={self._max}{target}; now {self.limit})"

    @property
    def limit(self) -> int:
        return int(self._exact)

    @property
    def trace(self) -> tuple[LimitChange, ...]:
        return tuple(self._trace)

    @property
    def num_queued(self) -> int:
        return sum(gate.num_waiting for gate in self._gates.values())

    @property
    def num_in_flight(self) -> int:
        return sum(gate.num_inside for gate in self._gates.values())

    async def acquire(self, *, adapter: str | None, num_tokens: int) -> AdaptivePlace:
        gate = self._gates.get()
        lane = await gate.enter(None, 1)
        if gate.num_inside >= self.limit:
            self._was_full = True
        return AdaptivePlace(self, gate, lane, self._round)

    def learn(self, outcome: ClientError | None, timing: Timing, *, round: int) -> None:
        """Take account of a call that was admitted in `round` and has ended."""
        if round != self._round:
            return  # what it met was the limit before
        if isinstance(outcome, Overloaded):
            self._lower(BACKOFF, "overloaded")
            return
        ttft = _time_to_first_token(outcome, timing)
        if ttft is not None:
            self._sum_ttft += ttft
            self._num_ttft += 1
        elif outcome is not None:
            return  # a failure of another kind says nothing about load
        self._num_ended += 1
        if self._num_ended >= self.limit:
            self._end_round()

    def _end_round(self) -> None:
        if self._target_ttft is not None and self._num_ttft:
            gradient = self._target_ttft * self._num_ttft / self._sum_ttft
            if gradient < 1.0:
                self._lower(max(SMALLEST_GRADIENT, min(gradient, LARGEST_GRADIENT)), "late")
                return
        if self._was_full:
            more = 1.0 if self._was_lowered else self._exact
            self._move_to(min(self._exact + more, float(self._max)), "grew")
        else:
            self._begin_round(None)

    def _lower(self, factor: float, cause: Cause) -> None:
        self._was_lowered = True
        self._move_to(max(self._exact * factor, float(self._min)), cause)

    def _move_to(self, limit: float, cause: Cause) -> None:
        has_changed = int(limit) != self.limit
        self._exact = limit
        self._begin_round(cause if has_changed else None)

    def _begin_round(self, cause: Cause | None) -> None:
        self._round += 1
        self._num_ended = 0
        self._num_ttft = 0
        self._sum_ttft = 0.0
        self._was_full = False
        if cause is not None:
            self._trace.append(LimitChange(self._clock(), self.limit, cause))

    def _new_gate(self, loop: asyncio.AbstractEventLoop) -> Gate:
        return Gate(loop, capacity=self.limit, turns=FirstCome())


class AdaptivePlace:
    """A permit of `AdaptiveLimit`; giving it back teaches the limit something."""

    __slots__ = ("_gate", "_lane", "_limit", "_round")

    def __init__(self, limit: AdaptiveLimit, gate: Gate, lane: Lane, round: int) -> None:
        self._limit = limit
        self._gate = gate
        self._lane: Lane | None = lane
        self._round = round

    def release(self, *, outcome: ClientError | None, timing: Timing) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            self._limit.learn(outcome, timing, round=self._round)
            self._gate.resize(self._limit.limit)
            self._gate.leave(lane)


def _time_to_first_token(outcome: ClientError | None, timing: Timing) -> float | None:
    """Of a stream that ran out of time before it, the time that it was waited for."""
    if timing.ttft is not None:
        return timing.ttft
    ran_out = isinstance(outcome, DeadlineExceeded) and outcome.phase in ("headers", "first_token")
    if not ran_out or timing.sent_ns is None or timing.done_ns is None:
        return None
    return (timing.done_ns - timing.sent_ns) / 1e9
