"""What master and workers of locust tell each other about a run, beside what locust does itself.

Before it: who is which slice of the stream, when it starts, what the canaries' answers are. At its
end: the records. They are not sent one by one, since a master that takes a message per request is
soon the slowest part of a test (GoogleCloudPlatform/ai-on-gke#766): a worker that sees the master's
folder spools into it, another one sends its spool in chunks when all is over.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import msgspec

from lorry_loadtest.observations import WorkerReport
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.spool import Spool, merge_spools
from lorry_loadtest.wall_clock import offset_now_ns

logger = logging.getLogger(__name__)

# Long enough for the order to be with all workers when it is to begin.
_START_DELAY_NS = 500_000_000
_TOKEN_FILE = "token"
_ORDER, _STOP, _CHUNK, _DONE = "lorry-order", "lorry-stop", "lorry-records", "lorry-done"


class RunOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's. The start is on the wall clock, which machines have in common more or less, and
    on one machine exactly; 0 is at once. An open loop is planned for
    `until_s` seconds. `folder` is the master's, with `token` in a file."""

    worker: int = 0
    num_workers: int = 1
    origin_realtime_ns: int = 0
    until_s: float = 0.0
    answers: dict[str, str] = {}
    folder: str = ""
    token: str = ""

    @property
    def origin_ns(self) -> int:
        """The start on this process's monotonic clock."""
        if not self.origin_realtime_ns:
            return time.perf_counter_ns()
        return self.origin_realtime_ns - offset_now_ns()

    @property
    def shares_folder(self) -> bool:
        """Whether this process sees the folder of the master."""
        try:
            return bool(self.token) and (Path(self.folder) / _TOKEN_FILE).read_text() == self.token
        except OSError:
            return False


class _Done(msgspec.Struct, frozen=True):
    """A worker's last word. `path` is its spool, empty when it came in chunks."""

    report: WorkerReport
    path: str = ""


class MasterSide:
    """Gives orders and collects what comes of them. `runner` is locust's MasterRunner."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._expected: set[str] = set()
        self._done: dict[str, _Done] = {}
        runner.register_message(_CHUNK, self._on_chunk)
        runner.register_message(_DONE, self._on_done)

    @property
    def num_workers(self) -> int:
        """How many were given orders, until what they did was collected."""
        return len(self._expected)

    def give_orders(self, answers: dict[str, str], *, until_s: float) -> RunOrder:
        """Tells every worker its slice; the order returned is the master's own, for its clock."""
        clients = self._runner.clients
        ids = sorted(
            (client.id for client in [*clients.ready, *clients.spawning, *clients.running]),
            key=self._runner.get_worker_index,
        )
        self._folder = tempfile.TemporaryDirectory(prefix="lorry-loadtest-")
        token = secrets.token_hex(8)
        (Path(self._folder.name) / _TOKEN_FILE).write_text(token)
        self._expected, self._done = set(ids), {}
        common = RunOrder(
            num_workers=max(1, len(ids)),
            origin_realtime_ns=time.time_ns() + _START_DELAY_NS,
            until_s=until_s,
            answers=answers,
            folder=self._folder.name,
            token=token,
        )
        for worker, client_id in enumerate(ids):
            order = msgspec.structs.replace(common, worker=worker)
            self._runner.send_message(_ORDER, {"order": msgspec.msgpack.encode(order)}, client_id)
        return common

    def stop_workers(self, *, timeout_s: float) -> None:
        """Returns when all that are alive have stopped and handed over, or after `timeout_s`."""
        if not self._expected:
            return
        self._runner.send_message(_STOP)
        deadline_s = time.monotonic() + timeout_s
        while self._awaited() and time.monotonic() < deadline_s:
            gevent.sleep(0.05)
        if missing := self._expected - self._done.keys():
            logger.error("no records from %d workers: %s", len(missing), ", ".join(sorted(missing)))

    def collect(self) -> Iterator[tuple[list[RequestRecord], WorkerReport]]:
        """The records of each worker that has handed over; once."""
        for client_id, done in self._done.items():
            path = Path(done.path) if done.path else self._chunk_file(client_id)
            yield (merge_spools([path]) if path.exists() else []), done.report
        self._expected, self._done = set(), {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _awaited(self) -> set[str]:
        alive = {client.id for client in self._runner.clients.all if client.state != "missing"}
        return (self._expected & alive) - self._done.keys()

    def _chunk_file(self, client_id: str) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"sent-{sorted(self._expected).index(client_id)}.jsonl"

    def _on_chunk(self, environment: Any, msg: Any, **_: Any) -> None:
        if msg.node_id in self._expected and self._folder is not None:
            with self._chunk_file(msg.node_id).open("ab") as file:
                file.write(msg.data["chunk"])

    def _on_done(self, environment: Any, msg: Any, **_: Any) -> None:
        if msg.node_id in self._expected:  # others joined too late to have a slice of this run
            self._done[msg.node_id] = msgspec.msgpack.decode(msg.data["done"], type=_Done)


class WorkerSide:
    """Takes orders and hands over. `runner` is locust's WorkerRunner."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.order = RunOrder()
        self._is_fresh = False
        runner.register_message(_ORDER, self._on_order)
        runner.register_message(_STOP, self._on_stop, concurrent=True)

    def take_order(self) -> RunOrder | None:
        """That of the test which begins; None for a worker that came when it had begun."""
        is_fresh, self._is_fresh = self._is_fresh, False
        return self.order if is_fresh else None

    def new_spool(self, own_folder: Path) -> Spool:
        """In the master's folder where that is to be seen, else in this process's own."""
        folder = Path(self.order.folder) if self.order.shares_folder else own_folder
        return Spool(folder / f"records-{self.order.worker}.jsonl")

    def hand_over(self, spool: Spool, report: WorkerReport) -> None:
        """`spool` is closed. Chunks go out between other greenlets' turns.

        Locust's own counts go first: it sends them every three seconds and once more at the very
        end, which is after the master has compared its rows with the records."""
        path = str(spool.path)
        if not self.order.shares_folder:
            path = ""
            for chunk in spool.chunks():
                self._runner.send_message(_CHUNK, {"chunk": chunk})
                gevent.sleep(0)
        done = msgspec.msgpack.encode(_Done(report, path))
        self._runner._send_stats()
        self._runner.send_message(_DONE, {"done": done})

    def _on_order(self, environment: Any, msg: Any, **_: Any) -> None:
        self.order = msgspec.msgpack.decode(msg.data["order"], type=RunOrder)
        self._is_fresh = True

    def _on_stop(self, environment: Any, msg: Any, **_: Any) -> None:
        self._runner.stop()
