"""`Load`: the streams that every client is given, and the mock server that answers them."""

from __future__ import annotations

from array import array
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lorry_loadtest.calibration import mock_process

FIRST_MS = 50.0
# one stream in so many pauses half way: a client that keeps no time of each token misses it
PAUSED_EVERY = 20


@dataclass(frozen=True, slots=True)
class Load:
    """Streams that begin evenly spread and bring so many events per second together; at least one."""

    events_per_s: float
    seconds: float
    gap_ms: float = 20.0

    @property
    def num_tokens(self) -> int:
        """Of each stream, so that it lasts about a second."""
        return max(2, round(1000 / self.gap_ms))

    @property
    def times_ns(self) -> array[int]:
        """When each stream is asked for, from the start."""
        streams_per_s = self.events_per_s / self.num_tokens
        count = max(1, round(self.seconds * streams_per_s))
        return array("q", (round(k / streams_per_s * 1e9) for k in range(count)))

    def served(self) -> AbstractContextManager[str]:
        """A mock server of its own, in a process; its URL. RuntimeError if it does not start."""
        return mock_process(
            *("--first-ms", str(FIRST_MS), "--gap-ms", str(self.gap_ms)),
            *("--fault", "stall", "--fault-every", str(PAUSED_EVERY)),
        )
