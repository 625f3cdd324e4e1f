"""Master and workers: orders, records, and what is missed when a worker is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from lorry_loadtest.distributed import MasterSide, RunOrder, WorkerSide
from lorry_loadtest.observations import WorkerReport
from lorry_loadtest.records import RequestRecord
from tests.support.fake_locust import FakeMaster
from tests.support.loadtest_records import make_record


class Cluster:
    """A master and its workers, whose spools hold the records that a test gives them."""

    def __init__(self, num_workers: int, tmp_path: Path) -> None:
        self.runner = FakeMaster(*(f"worker-{k}" for k in range(num_workers)))
        self.master = MasterSide(self.runner)
        self.workers = {name: WorkerSide(worker) for name, worker in self.runner.workers.items()}
        self._tmp_path = tmp_path

    def run(self, records: Sequence[Sequence[RequestRecord]]) -> list[list[int]]:
        """The indices that came to the master, by worker."""
        self.master.give_orders({"a/0": "x"}, until_s=3.0)
        for (name, side), own in zip(self.workers.items(), records, strict=True):
            self.runner.workers[name].on_stop = lambda side=side, own=own: self._end(side, own)
        self.master.stop_workers(timeout_s=1)
        return [[record.index for record in got] for got, _ in self.master.collect()]

    def _end(self, side: WorkerSide, records: Sequence[RequestRecord]) -> None:
        own_folder = self._tmp_path / f"own-{side.order.worker}"
        own_folder.mkdir()
        spool = side.new_spool(own_folder)
        for record in records:
            spool.append(record)
        spool.close()
        side.hand_over(
            spool,
            WorkerReport(
                worker=side.order.worker,
                cpu_s=0.1,
                wall_s=1.0,
                heartbeat_lags_ms=(),
                num_records=spool.num_records,
            ),
        )


def records_at(*indices: int) -> list[RequestRecord]:
    return [
        replace_index(make_record(sched_ms=index, events_ms=(index + 1.0,)), index)
        for index in indices
    ]


def replace_index(record: RequestRecord, index: int) -> RequestRecord:
    return msgspec.structs.replace(record, index=index)


def test_every_worker_is_told_its_slice_and_the_common_start(tmp_path: Path) -> None:
    cluster = Cluster(3, tmp_path)
    cluster.master.give_orders({"a/0": "x"}, until_s=3.0)
    orders = [side.order for side in cluster.workers.values()]

    assert [(order.worker, order.num_workers) for order in orders] == [(0, 3), (1, 3), (2, 3)]
    assert len({order.origin_realtime_ns for order in orders}) == 1
    assert all(order.answers == {"a/0": "x"} and order.until_s == 3.0 for order in orders)


def test_records_come_to_the_master_through_its_folder(tmp_path: Path) -> None:
    cluster = Cluster(2, tmp_path)

    assert cluster.run([records_at(0, 2), records_at(1, 3)]) == [[0, 2], [1, 3]]


def test_records_come_in_chunks_where_the_folder_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunOrder, "shares_folder", property(lambda self: False))
    monkeypatch.setattr("lorry_loadtest.spool.CHUNK_BYTES", 100)
    cluster = Cluster(2, tmp_path)

    assert cluster.run([records_at(0, 2, 4), records_at(1)]) == [[0, 2, 4], [1]]


def test_a_lost_worker_costs_its_records_and_not_the_others(tmp_path: Path) -> None:
    cluster = Cluster(2, tmp_path)
    cluster.runner.clients.ready[1].state = "missing"
    side = next(iter(cluster.workers.values()))
    cluster.master.give_orders({}, until_s=1.0)
    cluster.runner.workers["worker-0"].on_stop = lambda: cluster._end(side, records_at(0))

    cluster.master.stop_workers(timeout_s=5)

    assert [[r.index for r in got] for got, _ in cluster.master.collect()] == [[0]]


def test_a_worker_that_dies_is_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(2, tmp_path)
    side = next(iter(cluster.workers.values()))
    cluster.master.give_orders({}, until_s=1.0)
    cluster.runner.clients.ready[1].state = "missing"
    cluster.runner.workers["worker-0"].on_stop = lambda: cluster._end(side, records_at(0))

    cluster.master.stop_workers(timeout_s=5)

    assert cluster.master.num_workers == 2
    assert len(list(cluster.master.collect())) == 1
    assert "no records from 1 workers: worker-1" in caplog.text


def test_locusts_counts_are_with_the_master_before_the_records_are(tmp_path: Path) -> None:
    cluster = Cluster(1, tmp_path)
    cluster.run([records_at(0)])

    assert cluster.runner.workers["worker-0"].sent == ["stats", "lorry-done"]


def test_a_worker_that_comes_when_the_test_has_begun_has_no_order(tmp_path: Path) -> None:
    cluster = Cluster(1, tmp_path)
    (side,) = cluster.workers.values()
    assert side.take_order() is None

    cluster.master.give_orders({}, until_s=1.0)

    assert side.take_order() == side.order
    assert side.take_order() is None  # the next test has not sent one
