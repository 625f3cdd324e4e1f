"""What the users of one running test share: its records, its clock and the server's catalog."""

from __future__ import annotations

import time

from gevent.lock import Semaphore

from lorry_loadtest.catalog import Catalog, fetch_catalog
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.options import WorkloadOptions
from lorry_loadtest.records import RequestRecord


class RunState:
    """Owned by the test; users count themselves in and append what they did.

    `level` is the number of streams in a sweep, 0 elsewhere. `options` is what a command line
    asked for, None where the user class says it all.
    """

    def __init__(
        self,
        *,
        level: int = 0,
        worker: int = 0,
        origin_ns: int | None = None,
        options: WorkloadOptions | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        self.level = level
        self.worker = worker
        self.origin_ns = time.perf_counter_ns() if origin_ns is None else origin_ns
        self.options = options
        self.records: list[RequestRecord] = []
        self._num_users = 0
        self._catalog = catalog
        self._catalog_lock = Semaphore()

    @property
    def now_ns(self) -> int:
        return time.perf_counter_ns() - self.origin_ns

    def admit_user(self) -> int:
        """The index of a new user: 0, 1, 2 and so on in the order of their start."""
        index = self._num_users
        self._num_users += 1
        return index

    def catalog(self, endpoint: Endpoint, *, api_key: str | None) -> Catalog:
        """The server's models, asked for once; raises CatalogError."""
        with self._catalog_lock:
            if self._catalog is None:
                self._catalog = fetch_catalog(endpoint, api_key=api_key)
            return self._catalog
