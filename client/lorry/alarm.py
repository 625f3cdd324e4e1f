"""What ends the waits of a call: it interrupts the task that waits, as `asyncio.timeout` does.

A scope of `asyncio.timeout` around every read of a stream sets and drops a timer for each event.
The end of the call's time needs none of its own (`lorry.deadlines`); that of a nearer limit is set
once, and again only when it has gone off too early or a wait has a nearer limit still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lorry.deadlines import GRAIN_S


class Alarm:
    """Ends the wait between `begin` and `end`; the call as a whole at `run_out`.

    Times are those of the loop's clock. `when_over` is called by `run_out` when nobody waits.
    """

    __slots__ = (
        "_cancelling",
        "_has_interrupted",
        "_limit_at",
        "_loop",
        "_task",
        "_timer",
        "_timer_at",
        "_when_over",
        "is_over",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, *, when_over: Callable[[], None]) -> None:
        self.is_over = False  # the call's time is up
        self._loop = loop
        self._when_over: Callable[[], None] | None = when_over
        self._task: asyncio.Task[object] | None = None  # the one that waits
        self._cancelling = 0
        self._has_interrupted = False
        self._limit_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def begin(self, limit_at: float | None = None) -> None:
        """The running task begins to wait, until `limit_at` at most."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._limit_at = limit_at
        if limit_at is not None:
            self._aim(limit_at)

    def end(self) -> bool:
        """The wait is over; True if it was cancelled by this alarm and by nobody else."""
        task, self._task = self._task, None
        if not self._has_interrupted or task is None:
            return False
        self._has_interrupted = False
        return task.uncancel() <= self._cancelling

    @property
    def is_waited_for(self) -> bool:
        return self._task is not None

    def interrupt(self) -> None:
        """End the wait, if there is one, now."""
        if self._task is not None and not self._has_interrupted:
            self._has_interrupted = True
            self._task.cancel()

    def run_out(self) -> None:
        """The call's time is up."""
        self.is_over = True
        if self._task is not None:
            self.interrupt()
        elif self._when_over is not None:
            self._when_over()

    def stop(self) -> None:
        """Never go off again."""
        self._when_over = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _aim(self, limit_at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= limit_at:
                return  # it goes off in time, and is then set again
            self._timer.cancel()
        self._timer = self._loop.call_at(limit_at, self._go_off)
        self._timer_at = limit_at

    def _go_off(self) -> None:
        self._timer = None
        if self._task is None or self._limit_at is None:
            return  # it was the limit of a wait that has ended
        if self._loop.time() + GRAIN_S >= self._limit_at:
            self.interrupt()
        else:
            self._aim(self._limit_at)
