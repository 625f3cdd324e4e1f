"""`TimeLeft`: one limit of time over several requests that are made in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from lorry.call_outcome import too_late
from lorry.timeout import Timeout


class TimeLeft:
    """Begins to run when it is made. `clock` gives monotonic seconds."""

    def __init__(self, limits: Timeout, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._began_at = clock()

    def now(self) -> Timeout:
        """The limits of a request that begins now. Raises DeadlineExceeded when no time is left."""
        total = self._limits.total
        if total is None:
            return self._limits
        left_s = self._began_at + total - self._clock()
        if left_s <= 0:
            raise too_late("total", total)
        return replace(self._limits, total=left_s)
