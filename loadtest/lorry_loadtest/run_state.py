"""What everything that makes load in one process shares: the clock, the records, the catalog."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gevent.event import Event
from gevent.lock import Semaphore

from lorry_loadtest.catalog import Catalog, fetch_catalog
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.live import LiveSummary
from lorry_loadtest.options import WorkloadOptions
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.spool import Spool


class RunState:
    """One test in one process. Whoever sends counts itself in and records what it did.

    `level` is the number of streams in a sweep, 0 elsewhere, and `stream` tells the seeded streams of
    a sweep's levels apart. Times count from `origin_ns`; the plan of an open loop begins `start_ns`
    after it. This process is `worker` of `num_workers`. `options` is what a command line asked for,
    None where the user class says it all. With a `spool`, as in every run that is reported, the records go to
    its file instead of into memory. `answers` are those of the canaries, by name, as hashes. A process that does not take
    part sends nothing: nobody would record it.
    """

    def __init__(
        self,
        *,
        level: int = 0,
        stream: int = 0,
        worker: int = 0,
        num_workers: int = 1,
        origin_ns: int | None = None,
        start_ns: int = 0,
        options: WorkloadOptions | None = None,
        catalog: Catalog | None = None,
        spool: Spool | None = None,
        answers: Mapping[str, str] | None = None,
        takes_part: bool = True,
    ) -> None:
        self.level = level
        self.stream = stream
        self.start_ns = start_ns
        self.worker = worker
        self.num_workers = num_workers
        self.origin_ns = time.perf_counter_ns() if origin_ns is None else origin_ns
        self.options = options
        self.records: list[RequestRecord] = []
        self.spool = spool
        self.live = LiveSummary()
        self.answers = dict(answers or {})
        self.takes_part = takes_part
        self.stopping = Event()
        self.in_flight = 0
        self.max_in_flight = 0
        self.num_planned: int | None = None
        self.num_due: int | None = None  # of an open loop, known when the pacer has ended
        self.num_dropped = 0
        # one per user class, made by `engine_of`
        self.engines: dict[type, Any] = {}
        self._num_users = 0
        self._num_recorded = 0
        self._catalog = catalog
        self._catalog_lock = Semaphore()

    @property
    def now_ns(self) -> int:
        return time.perf_counter_ns() - self.origin_ns

    @property
    def num_records(self) -> int:
        return self._num_recorded

    def admit_user(self) -> int:
        """The index of a new user: 0, 1, 2 and so on in the order of their start."""
        index = self._num_users
        self._num_users += 1
        return index

    def enter(self) -> None:
        """A request is about to be sent."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def leave(self, record: RequestRecord) -> None:
        """It has ended, and this is its record."""
        self.in_flight -= 1
        self._num_recorded += 1
        self.live.add(record)
        if self.spool is None:
            self.records.append(record)
        else:
            self.spool.append(record)

    def catalog(self, endpoint: Endpoint, *, api_key: str | None) -> Catalog:
        """The server's models, asked for once; raises CatalogError."""
        with self._catalog_lock:
            if self._catalog is None:
                self._catalog = fetch_catalog(endpoint, api_key=api_key)
            return self._catalog
