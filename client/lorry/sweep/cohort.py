"""Which requests of a point count, and in which window: bookkeeping without a clock of its own.

A closed loop is steady only while every slot is taken. The first requests start together and are
warm-up. Those after them are measured; and since the last of them would run beside fewer and fewer
others, requests go on being sent, uncounted, until the last measured one has ended. So no measured
request sees ramp-up or drain, and none is left out for having been slow.

Throughput is counted in the window from the first measured start to the first start after them (or
to the end of the set duration). All requests that can have tokens in that window end before the
point does, so every token in it is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lorry.sweep.point import Phase


@dataclass(slots=True)
class Cohort:
    """Told of starts and ends as they happen; stamps are nanoseconds of one clock."""

    num_warmup: int
    num_requests: int | None
    duration_ns: int | None
    window_start_ns: int | None = None
    window_end_ns: int | None = None
    num_measured: int = 0
    num_drain: int = 0
    _num_started: int = 0
    _open: set[int] = field(default_factory=set)

    def start(self, index: int, now_ns: int) -> Phase:
        """A request begins; what it counts as."""
        self._num_started += 1
        if self._num_started <= self.num_warmup:
            return "warmup"
        if self.window_start_ns is None:
            self.window_start_ns = now_ns
        if self._is_over(now_ns):
            self._end_window(now_ns)
            self.num_drain += 1
            return "drain"
        self.num_measured += 1
        self._open.add(index)
        return "measured"

    def end(self, index: int, now_ns: int) -> None:
        """A request ended, whatever came of it."""
        self._open.discard(index)
        if self.window_start_ns is not None and not self._open and self._is_over(now_ns):
            self._end_window(now_ns)

    def finish(self, now_ns: int) -> None:
        """Nothing more will start: a schedule that ended before the window did ends it."""
        if self.window_start_ns is not None:
            self._end_window(now_ns)

    @property
    def is_complete(self) -> bool:
        """Whether the window is over and no measured request is in flight."""
        return self.window_end_ns is not None and not self._open

    def _is_over(self, now_ns: int) -> bool:
        if self.num_requests is not None:
            return self.num_measured >= self.num_requests
        assert self.window_start_ns is not None
        assert self.duration_ns is not None
        return now_ns - self.window_start_ns >= self.duration_ns

    def _end_window(self, now_ns: int) -> None:
        if self.window_end_ns is None:
            self.window_end_ns = now_ns
            if self.duration_ns is not None and self.window_start_ns is not None:
                self.window_end_ns = min(now_ns, self.window_start_ns + self.duration_ns)
