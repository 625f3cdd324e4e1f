"""What the machine itself adds to a wait: no server can have less lag than this.

On a virtual machine whose host has other guests, a timer is now and then milliseconds late however
idle its thread is. The same share of time is taken from every computation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorry_server.engine.thread_priority import NICENESS

SLEEP_S = 0.02
SPIN = "import os, sys, time\nos.nice(int(sys.argv[1]))\nend = time.monotonic() + float(sys.argv[2])\nwhile time.monotonic() < end: pass"
STEAL_COLUMN = 8  # of the first line of /proc/stat, counted from the name


def sleep_lag_ms(seconds: float) -> list[float]:
    """By how much each sleep of 20 ms is late beside one spinning process a core.

    The others are as nice as the threads that compute, so what remains is the system's wake-up.
    """
    lags_ms = []
    with _spinning(seconds):
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            due_s = time.perf_counter() + SLEEP_S
            time.sleep(SLEEP_S)
            lags_ms.append(1e3 * (time.perf_counter() - due_s))
    return lags_ms


class StolenTime:
    """The share of all cores' time that the host has given to others since this was made."""

    def __init__(self) -> None:
        self._first = _stolen_and_total()

    def share(self) -> float | None:
        """Between 0 and 1; None where the system does not count it."""
        now = _stolen_and_total()
        if now is None or self._first is None or now[1] == self._first[1]:
            return None
        return (now[0] - self._first[0]) / (now[1] - self._first[1])


@contextmanager
def _spinning(seconds: float) -> Iterator[None]:
    command = [sys.executable, "-S", "-c", SPIN, str(NICENESS), str(seconds + 1)]
    spinners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def _stolen_and_total() -> tuple[int, int] | None:
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    ticks = [int(word) for word in stat.read_text().splitlines()[0].split()[1:]]
    return ticks[STEAL_COLUMN - 1], sum(ticks[:STEAL_COLUMN])
