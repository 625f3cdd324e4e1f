"""How this process itself fared while it made load: CPU time, a heartbeat's lateness, its machine."""

from __future__ import annotations

import time
from typing import Any

import gevent

from lorry_loadtest.host_watch import HostWatch
from lorry_loadtest.machine import most_streams
from lorry_loadtest.observations import WorkerReport
from lorry_loadtest.run_state import RunState
from lorry_loadtest.stamping_thread import clock_samples

_BEAT_S = 0.01
# Of the heartbeats only the latest of each tenth of a second is kept.
_BEATS_KEPT = 10


class Health:
    """Begins to watch when it is made, until `stop`. `server_host` is whom the load is for."""

    def __init__(self, server_host: str) -> None:
        self._start_s = time.perf_counter()
        self._start_cpu_s = time.process_time()
        self._lags_ms: list[float] = []
        self._most_streams = most_streams()
        self._host = HostWatch(server_host)
        self._greenlet: Any = gevent.spawn(self._beat)

    def stop(self, run: RunState) -> WorkerReport:
        """The report of this process, which has sent what `run` recorded."""
        self._greenlet.kill()
        return WorkerReport(
            worker=run.worker,
            cpu_s=time.process_time() - self._start_cpu_s,
            wall_s=time.perf_counter() - self._start_s,
            heartbeat_lags_ms=tuple(self._lags_ms),
            num_records=run.num_records,
            num_planned=run.num_planned,
            num_due=run.num_due,
            num_dropped=run.num_dropped,
            max_in_flight=run.max_in_flight,
            most_streams=self._most_streams,
            clock=clock_samples(run.origin_ns),
            host=self._host.stop(),
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
