"""What is done before the first request of a run: its stream is hashed, canaries are learned, the
client is calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorry_loadtest.attempt import attempt
from lorry_loadtest.attempted import Sender
from lorry_loadtest.calibration import calibrate, calibration_line
from lorry_loadtest.engine import Engine
from lorry_loadtest.observations import Calibration, CanaryBook
from lorry_loadtest.overhead import measure_overhead, overhead_line
from lorry_loadtest.planned import joined_hash
from lorry_loadtest.records import RequestRecord


@dataclass(frozen=True, slots=True)
class Prepared:
    """`lines` say it in words. `stream_hashes` are by the scenario of each user class. `records` are of the requests that learned the canaries' answers."""

    scenario: str = ""
    arrival: str = "closed"
    stream_hashes: Mapping[str, str] = field(default_factory=dict)
    num_planned: int | None = None
    calibration: Calibration | None = None
    canaries: CanaryBook | None = None
    records: tuple[RequestRecord, ...] = ()
    sdk_overhead: dict[str, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def stream_hash(self) -> str:
        """Of the streams of all user classes; empty when nothing was planned."""
        return joined_hash(list(self.stream_hashes.values())) if self.stream_hashes else ""

    @property
    def answers(self) -> dict[str, str]:
        return self.canaries.answers if self.canaries else {}

    @property
    def lines(self) -> list[str]:
        planned = "" if self.num_planned is None else f" of {self.num_planned} requests"
        lines = [f"stream{planned}: sha256 {self.stream_hash}"]
        if self.calibration is not None:
            lines.append(calibration_line(self.calibration))
        if self.sdk_overhead is not None:
            lines.append(overhead_line(self.sdk_overhead))
        if self.canaries is not None:
            lines.append(
                f"canaries: {len(self.canaries.answers)} known answers, "
                f"{len(self.canaries.unstable)} left out"
            )
        return lines + list(self.notes)


def prepare(
    engines: Sequence[Engine], *, until_s: float, calibrates: bool, num_streams: int = 8
) -> Prepared:
    """`num_streams` is what the calibration of a closed loop opens at once."""
    if not engines:
        return Prepared()
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()
    if calibrates:
        calibration, notes = calibrate(engines[0], num_streams=num_streams)
    overhead = None
    if calibration is not None and any(engine.tries is not attempt for engine in engines):
        overhead = measure_overhead(engines, num_streams=num_streams)
    book, records = _learn(engines)
    open_loops = [engine for engine in engines if engine.is_open_loop]
    return Prepared(
        scenario=", ".join(engine.settings.scenario for engine in engines),
        arrival=", ".join(dict.fromkeys(engine.settings.arrival_name for engine in engines)),
        stream_hashes={
            engine.settings.scenario: engine.stream_hash(until_s=until_s) for engine in engines
        },
        num_planned=sum(len(e.schedule(until_s=until_s)) for e in open_loops)
        if open_loops
        else None,
        calibration=calibration,
        canaries=book,
        records=records,
        sdk_overhead=overhead,
        notes=notes,
    )


def _learn(engines: Sequence[Engine]) -> tuple[CanaryBook | None, tuple[RequestRecord, ...]]:
    """Asks each canary twice, one after the other. What the idle server does not answer the same
    twice cannot tell anything under load, and is not compared."""
    answers: dict[str, str] = {}
    unstable: list[str] = []
    records: list[RequestRecord] = []
    number = 0
    for engine in engines:
        connection = engine.take_connection()
        for canary in engine.workload.canaries:
            hashes = set()
            for _ in range(2):
                number += 1
                record = engine.tries(
                    engine.workload.canary_at(canary, index=-number),
                    wire=engine.wire,
                    connection=connection,
                    limits=engine.limits,
                    origin_ns=engine.run.origin_ns,
                    sender=Sender(engine.settings.scenario, "learn"),
                ).record
                records.append(record)
                hashes.add(record.text_hash if record.outcome == "ok" else None)
            known = hashes.pop()
            if hashes or known is None:
                unstable.append(canary.name)
            else:
                answers[canary.name] = known
        engine.give_back(connection)
    if not records:
        return None, ()
    return CanaryBook(answers=answers, unstable=tuple(unstable)), tuple(records)
