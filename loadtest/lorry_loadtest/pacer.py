"""The open loop: sends each request when it is due, whether or not earlier ones were answered."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.pool import Group

from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.run_state import RunState
from lorry_loadtest.schedule import Schedule

# An answer to a plan; runs in a greenlet of its own.
Visit = Callable[[PlannedRequest], None]

# The next requests are made ready in idle moments, so that none is late for having been drawn.
_READY_AHEAD = 8


class Pacer:
    """One per worker. `run` returns when all requests of its slice have been sent."""

    def __init__(self, schedule: Schedule, *, run: RunState, visit: Visit) -> None:
        self._schedule = schedule
        self._indices = schedule.slice_of(run.worker, run.num_workers)
        self._run = run
        self._visit = visit
        self._visitors = Group()
        self._num_sent = 0
        run.num_planned = (run.num_planned or 0) + len(self._indices)

    def run(self) -> None:
        """Sends until the plan is done or the test stops; what was due by then counts as dropped
        if it was not sent."""
        ready: list[PlannedRequest] = []
        coming = iter(self._indices)
        for index in self._indices:
            while len(ready) < _READY_AHEAD and (ahead := next(coming, None)) is not None:
                ready.append(self._schedule.request_at(ahead))
            due_ns = self._run.start_ns + self._schedule.times_ns[index]
            if not self._wait_until(due_ns):
                break
            self._visitors.spawn(self._visit, ready.pop(0))
            self._num_sent += 1
        self._count_dropped()

    def drain(self, *, timeout_s: float) -> None:
        """Waits for the answers; what is still running then is killed, and recorded as that."""
        self._visitors.join(timeout=timeout_s)
        self._visitors.kill()

    def _wait_until(self, due_ns: int) -> bool:
        """False when the test stops before. Never early: a timer counts from the time at which the
        loop looked at the clock last, which may be a while ago."""
        left_ns = due_ns - self._run.now_ns
        if left_ns <= 0:
            gevent.sleep(0)  # late: those who have been spawned must get to run
            return not self._run.stopping.is_set()
        while left_ns > 0:
            if self._run.stopping.wait(left_ns / 1e9):
                return False
            left_ns = due_ns - self._run.now_ns
        return True

    def _count_dropped(self) -> None:
        """Of this slice what was due by now, and what of that was not sent."""
        now_ns = self._run.now_ns - self._run.start_ns
        unsent = self._indices[self._num_sent :]
        num_dropped = sum(1 for i in unsent if self._schedule.times_ns[i] <= now_ns)
        self._run.num_dropped += num_dropped
        self._run.num_due = (self._run.num_due or 0) + self._num_sent + num_dropped
