"""When the calls of an event loop run out of time: one timer for all that were given as much.

A timer of the loop for each call costs several microseconds of it, and nearly all calls end long
before theirs would go off.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from lorry.per_loop import WeakPerLoop

# timers of some loops have whole milliseconds, and go off that much early
GRAIN_S = 0.001
MAX_KEPT_LINES = 16


class RunsOut(Protocol):
    """What is told that its time is up. It is told once."""

    def run_out(self) -> None: ...


class Line:
    """Calls with the same time at their disposal: they run out of it in the order they began.

    Joining and leaving take constant time. Its timer is that of the first, and may be of one that
    has left: then it is set again when it goes off.
    """

    __slots__ = ("_loop", "_owner", "_timer", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Deadlines) -> None:
        self._loop = loop
        self._owner = owner  # lives as long as a timer of its lines
        self._waiting: dict[RunsOut, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, call: RunsOut, ends_at: float) -> None:
        self._waiting[call] = ends_at
        if self._timer is None:
            self._timer = self._loop.call_at(ends_at, self._go_off)

    def leave(self, call: RunsOut) -> None:
        """Harmless when repeated."""
        self._waiting.pop(call, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go_off(self) -> None:
        self._timer = None
        now = self._loop.time() + GRAIN_S
        while self._waiting:
            first = next(iter(self._waiting))
            ends_at = self._waiting[first]
            if ends_at > now:
                self._timer = self._loop.call_at(ends_at, self._go_off)
                return
            del self._waiting[first]
            # by itself, so that what goes wrong in one call is not another's to suffer
            self._loop.call_soon(first.run_out)


class Deadlines:
    """The lines of one loop, each for the calls with one total in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: dict[float, Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def join(self, call: RunsOut, *, began_at: float, total_s: float) -> None:
        line = self._lines.get(total_s)
        if line is None:
            line = self._lines[total_s] = Line(self._loop, self)
        line.join(call, began_at + total_s)

    def leave(self, call: RunsOut, *, total_s: float) -> None:
        """It has ended in time, or has been told. Harmless when repeated."""
        line = self._lines.get(total_s)
        if line is None:
            return
        line.leave(call)
        # the next call mostly has the same total; but there may be as many totals as calls
        if not line and len(self._lines) > MAX_KEPT_LINES:
            line.close()
            del self._lines[total_s]


# whichever client asks
_OF_LOOP = WeakPerLoop(Deadlines)
deadlines_of = _OF_LOOP.get
