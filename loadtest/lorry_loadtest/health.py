"""How this process itself fared while it made load: its CPU time and a heartbeat's lateness."""

from __future__ import annotations

import time
from typing import Any

import gevent

from lorry_loadtest.observations import ClockSample, WorkerReport

_BEAT_S = 0.01
# Of the heartbeats only the latest of each tenth of a second is kept.
_BEATS_KEPT = 10


class Health:
    """Begins to watch when it is made, until `stop`."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._start_cpu_s = time.process_time()
        self._lags_ms: list[float] = []
        self._greenlet: Any = gevent.spawn(self._beat)

    def stop(
        self,
        *,
        worker: int,
        num_records: int,
        num_planned: int | None,
        num_due: int | None,
        num_dropped: int,
        max_in_flight: int,
        clock: tuple[ClockSample, ...],
    ) -> WorkerReport:
        self._greenlet.kill()
        return WorkerReport(
            worker=worker,
            cpu_s=time.process_time() - self._start_cpu_s,
            wall_s=time.perf_counter() - self._start_s,
            heartbeat_lags_ms=tuple(self._lags_ms),
            num_records=num_records,
            num_planned=num_planned,
            num_due=num_due,
            num_dropped=num_dropped,
            max_in_flight=max_in_flight,
            clock=clock,
        )

    def _beat(self) -> None:
        while True:
            worst_ms = 0.0
            for _ in range(_BEATS_KEPT):
                before_s = time.perf_counter()
                gevent.sleep(_BEAT_S)
                late_s = time.perf_counter() - before_s - _BEAT_S
                worst_ms = max(worst_ms, late_s * 1000)
            self._lags_ms.append(round(worst_ms, 3))
