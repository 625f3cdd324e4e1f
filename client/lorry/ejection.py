"""When a server that only fails is left out, and when it is tried again: one server's record.

Outlier detection by consecutive failures, as load balancers have it. No I/O and no clock of its
own: every method is told the time, in seconds.
"""

from __future__ import annotations

NUM_FAILURES = 5
FIRST_EJECTION_S = 1.0
LONGEST_EJECTION_S = 60.0


class Ejection:
    """Counts failures that no success came between; the fifth one is an outlier's.

    An ejection lasts a second, and twice as long each time that follows without a success. When
    it is over the server is on probation: it gets one request at a time, whose success clears the
    record and whose failure ejects it again.
    """

    def __init__(self) -> None:
        self._num_failures = 0
        self._num_ejections = 0
        self._until: float | None = None

    def is_out(self, now: float) -> bool:
        return self._until is not None and now < self._until

    def is_on_probation(self, now: float) -> bool:
        return self._until is not None and now >= self._until

    def succeeded(self, now: float) -> None:
        """An attempt was answered. One that began before an ejection does not end it."""
        if self._until is None or now >= self._until:
            self._num_failures = 0
            self._num_ejections = 0
            self._until = None

    def failed(self, now: float) -> bool:
        """An attempt failed by the server's fault. Returns whether it should be ejected."""
        if self.is_out(now):
            return False
        self._num_failures += 1
        return self._num_failures >= NUM_FAILURES or self.is_on_probation(now)

    def eject(self, now: float) -> None:
        duration_s = FIRST_EJECTION_S * 2.0 ** min(self._num_ejections, 30)
        self._until = now + min(duration_s, LONGEST_EJECTION_S)
        self._num_ejections += 1
        self._num_failures = 0
