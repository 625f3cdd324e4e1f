"""What all processes of a run have left, put together: records, and what was observed beside them."""

from __future__ import annotations

from collections.abc import Iterable

from lorry_loadtest.observations import Observations, WorkerReport
from lorry_loadtest.planned import StreamHash, joined_hash
from lorry_loadtest.preparation import Prepared
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.server_scrape import ServerScrape


class Gathered:
    """Filled at the end of a run by whoever led it."""

    def __init__(self, prepared: Prepared, *, start_ns: int = 0) -> None:
        self._start_ns = start_ns
        self.prepared = prepared
        self.records: list[RequestRecord] = list(prepared.records)
        self.reports: list[WorkerReport] = []
        self.num_workers: int | None = None  # how many should have handed over, in a master
        self.notes: list[str] = []
        self._scrape: ServerScrape | None = None

    def add(self, records: Iterable[RequestRecord], report: WorkerReport) -> None:
        """One worker's."""
        self.records.extend(records)
        self.reports.append(report)

    def scraped(self, scrape: ServerScrape) -> None:
        self._scrape = scrape

    @property
    def sent(self) -> list[RequestRecord]:
        """The run's own attempts, in the order of the stream."""
        return sorted((r for r in self.records if r.phase == "run"), key=lambda r: r.index)

    def sent_by(self, scenario: str) -> list[RequestRecord]:
        """One user class's part of `sent`."""
        return [record for record in self.sent if record.scenario == scenario]

    def sent_hash_of(self, scenario: str) -> str:
        """That of one user class's stream, as it was sent."""
        return sent_hash(
            self.sent_by(scenario),
            is_open_loop=self.prepared.arrival != "closed",
            start_ns=self._start_ns,
        )

    @property
    def client_cpu_share(self) -> float:
        """Of one core, the busiest worker's."""
        return max((r.cpu_s / r.wall_s for r in self.reports if r.wall_s > 0), default=0.0)

    @property
    def max_in_flight(self) -> int:
        return sum(report.max_in_flight for report in self.reports)

    @property
    def num_due(self) -> int | None:
        """Arrivals that were due by the end; None where no worker had any to send."""
        told = [report.num_due for report in self.reports if report.num_due is not None]
        return sum(told) if told else None

    def observations(self) -> Observations:
        prepared, scrape = self.prepared, self._scrape
        return Observations(
            scenario=prepared.scenario,
            arrival=prepared.arrival,
            stream_hash=prepared.stream_hash,
            sent_hash=joined_hash([self.sent_hash_of(name) for name in prepared.stream_hashes])
            if prepared.stream_hashes
            else "",
            num_planned=prepared.num_planned,
            num_due=self.num_due,
            num_workers=self.num_workers,
            workers=tuple(sorted(self.reports, key=lambda report: report.worker)),
            calibration=prepared.calibration,
            canaries=prepared.canaries,
            server=tuple(scrape.samples) if scrape else (),
            steps=tuple(scrape.steps) if scrape else (),
            sdk_overhead=prepared.sdk_overhead,
            notes=(*prepared.notes, *(scrape.notes if scrape else ()), *self.notes),
        )


def sent_hash(records: Iterable[RequestRecord], *, is_open_loop: bool, start_ns: int = 0) -> str:
    """The stream's hash over what was sent; that of an open loop is the planned one when every
    arrival was issued. `records` are in the order of their indices."""
    stream = StreamHash()
    for record in records:
        stream.add(
            record,
            at_ns=record.t_sched_ns - start_ns if is_open_loop else None,
            num_prompt_words=record.prompt_tokens_planned,
        )
    return stream.hexdigest()
