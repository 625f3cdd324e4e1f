"""One timer for all the waits of a call: it interrupts the task that waits, as `asyncio.timeout` does.

A scope of `asyncio.timeout` around every read of a stream sets and drops a timer for each event.
This timer is set once, and again only when it has gone off too early or a wait has a nearer limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# timers of some loops have whole milliseconds, and go off that much early
GRAIN_S = 0.001


class Alarm:
    """Ends the wait between `begin` and `end`; the call as a whole at `ends_at`.

    Times are those of the loop's clock. `when_over` is called at `ends_at` when nobody waits.
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
        "ends_at",
        "is_over",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        ends_at: float | None,
        when_over: Callable[[], None],
    ) -> None:
        self.ends_at = ends_at
        self.is_over = False  # `ends_at` has passed
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
        # a timer that is set goes off at the end of the call's time at the latest
        if limit_at is not None or self._timer is None:
            self._aim()

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

    def stop(self) -> None:
        """Never go off again."""
        self._when_over = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _aim(self) -> None:
        when = self.ends_at
        if self._limit_at is not None and (when is None or self._limit_at < when):
            when = self._limit_at
        if when is None:
            return
        if self._timer is not None:
            if self._timer_at <= when:
                return  # it goes off in time, and is then set again
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._go_off)
        self._timer_at = when

    def _go_off(self) -> None:
        self._timer = None
        now = self._loop.time() + GRAIN_S
        if self.ends_at is not None and now >= self.ends_at:
            self.is_over = True
            if self._task is not None:
                self.interrupt()
            elif self._when_over is not None:
                self._when_over()
            return
        if self._task is None:
            self._limit_at = None  # it was that of a wait that has ended
        elif self._limit_at is not None and now >= self._limit_at:
            self.interrupt()
            return
        self._aim()
