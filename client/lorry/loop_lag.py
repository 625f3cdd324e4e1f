"""How late an event loop runs what is due, watched by one heartbeat while calls are in flight.

A loop that other code keeps busy reads sockets late, and what a client then measures is partly its
own doing. The heartbeat is a timer, not a task: it costs some microseconds a hundred times a second
for all calls of a loop together, and is not set again once no call is in flight.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left

from lorry.per_loop import WeakPerLoop

BEAT_S = 0.01


class LoopLag:
    """The lateness of one loop's beats. Times are in seconds by `time.perf_counter`."""

    def __init__(self) -> None:
        self._num_calls = 0
        self._due_at: float | None = None  # when the beat that is set should come
        # (when it came, how late it was) of those beats that no later one exceeded, so lateness
        # falls from first to last: what is worst since any moment is the first after it
        self._beats: list[tuple[float, float]] = []

    def enter(self) -> float:
        """A call begins; the time that is returned is what `leave` wants back."""
        self._num_calls += 1
        now = time.perf_counter()
        if self._due_at is None:
            self._set_beat(now)
        return now

    def leave(self, entered_at: float) -> float:
        """A call ends; returns the worst lateness while it was in flight.

        A beat that is overdue counts, and of one that was overdue when the call began what came
        after.
        """
        now, due_at, beats = time.perf_counter(), self._due_at, self._beats
        worst = 0.0
        if due_at is not None and now > due_at:
            worst = min(now - due_at, now - entered_at)
        if beats and beats[-1][0] >= entered_at:
            first = bisect_left(beats, (entered_at, 0.0))
            for came_at, lateness in beats[first : first + 2]:
                worst = max(worst, min(lateness, came_at - entered_at))
        self._num_calls -= 1
        if not self._num_calls:
            beats.clear()
        return worst

    def _set_beat(self, now: float) -> None:
        self._due_at = now + BEAT_S
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        now = time.perf_counter()
        lateness = max(0.0, now - (self._due_at or now))
        if not self._num_calls:
            self._due_at = None
            return
        while self._beats and self._beats[-1][1] <= lateness:
            self._beats.pop()
        self._beats.append((now, lateness))
        self._set_beat(now)


# whichever client asks
_OF_LOOP = WeakPerLoop(lambda loop: LoopLag())
lag_of = _OF_LOOP.get
