"""An event loop whose clock stands still while the process is stopped or has too much to do."""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any

# what one turn of the loop, or one wait for files, can take of its clock at most
GRAIN_S = 0.005


class _PatientSelector(selectors.DefaultSelector):
    """Waits a grain of time at most, and counts no more than a grain however long that took."""

    def __init__(self) -> None:
        super().__init__()
        self._counted = self._looked_at = time.monotonic()

    @property
    def now(self) -> float:
        return self._counted + min(time.monotonic() - self._looked_at, GRAIN_S)

    def select(self, timeout: float | None = None) -> Any:
        self._count()
        events = super().select(GRAIN_S if timeout is None else min(timeout, GRAIN_S))
        self._count()
        return events

    def _count(self) -> None:
        looked_at = time.monotonic()
        self._counted += min(looked_at - self._looked_at, GRAIN_S)
        self._looked_at = looked_at


class PatientLoop(asyncio.SelectorEventLoop):
    """Timers go off after as many seconds in which this process could run, and none too early.

    A test that gives its server 50 ms to answer, and both to this loop, means 50 ms of theirs.
    Where the machine lends its cores to somebody else meanwhile, both have as much left as before.
    No interval of its clock is longer than that of any other clock.
    """

    def __init__(self) -> None:
        self._clock = _PatientSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now
