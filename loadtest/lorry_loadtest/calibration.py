"""Measures the measurer: a load of the run's shape against a server whose token times are known.

The mock server runs in a process of its own and notes when it wrote each event. What this client's
stamps say beyond that is its error on this machine at this load, and every report prints it.
"""

from __future__ import annotations

import re
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import gevent
import msgspec
from gevent import subprocess

from lorry_loadtest.adapter_mix import mix_of
from lorry_loadtest.attempt import attempt
from lorry_loadtest.attempted import Sender, Tries
from lorry_loadtest.connection import Connection
from lorry_loadtest.endpoint import Endpoint, parse_endpoint
from lorry_loadtest.engine import Engine
from lorry_loadtest.http_get import GetFailed, http_get
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.limits import Limits
from lorry_loadtest.observations import Calibration
from lorry_loadtest.pacer import Pacer
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.prompts import RandomWords
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.run_state import RunState
from lorry_loadtest.schedule import Schedule
from lorry_loadtest.statistics.quantiles import quantile
from lorry_loadtest.wire import Wire
from lorry_loadtest.workload import Workload

FIRST_MS = 50.0
GAP_MS = 20.0
NUM_TOKENS = 40
_MOST_REQUESTS = 200
_START_TIMEOUT_S = 20.0
_LATEST_START_S = 1.0


class ServedTimes(msgspec.Struct, frozen=True):
    """What the mock server tells of one request at `/mock/served`, on the clock of its machine."""

    request_id: str
    received_ns: int
    sent_ns: list[int]


def calibrate(engine: Engine, *, num_streams: int) -> tuple[Calibration | None, tuple[str, ...]]:
    """About two seconds of the run's own arrivals, or of `num_streams` at once.

    None with a note when no mock server could be started.
    """
    times_ns = shape_of(engine, num_streams)
    try:
        with mock_process("--first-ms", str(FIRST_MS), "--gap-ms", str(GAP_MS)) as url:
            return calibrate_against(parse_endpoint(url), times_ns, num_tokens=NUM_TOKENS), ()
    except (OSError, GetFailed, RuntimeError) as exc:
        return None, (f"not calibrated: {exc}",)


def calibrate_against(endpoint: Endpoint, times_ns: array[int], *, num_tokens: int) -> Calibration:
    """Sends a request at each of the times and compares. Raises GetFailed when the server cannot
    tell its times, RuntimeError when no request came through."""
    cpu_start_s, start_s = time.process_time(), time.perf_counter()
    records, origin_ns = send_schedule(endpoint, times_ns, num_tokens=num_tokens)
    cpu_s, wall_s = time.process_time() - cpu_start_s, time.perf_counter() - start_s
    served = {
        one.request_id: one
        for one in msgspec.json.decode(http_get(endpoint, "/mock/served"), type=list[ServedTimes])
    }
    pairs = [(r, served[r.request_id]) for r in records if r.request_id in served]
    if not pairs:
        raise RuntimeError("no request of the calibration came through")
    return _compare(pairs, origin_ns=origin_ns, cpu_s=cpu_s, wall_s=wall_s)


def calibration_line(calibration: Calibration) -> str:
    """One line for the terminal."""
    stamps = "kernel" if calibration.kernel_stamps > 0.99 else "user"
    return (
        f"calibration: TTFT error p99 {calibration.ttft_error_p99_ms:.3f} ms, gap error p99 "
        f"{calibration.gap_error_p99_ms:.3f} ms at {calibration.events_per_s:,.0f} events/s "
        f"({stamps} stamps; {calibration.cpu_us_per_event:.0f} us of CPU per event)"
    )


@contextmanager
def mock_process(*arguments: str) -> Iterator[str]:
    """A mock server in a process of its own; yields its URL. RuntimeError when it does not start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lorry_loadtest.mock_server", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=False,
    )
    try:
        with gevent.Timeout(_START_TIMEOUT_S, RuntimeError("the mock server did not start")):
            line = process.stdout.readline().decode()
        match = re.search(r"http://\S+", line)
        if match is None:
            raise RuntimeError(f"the mock server said {line!r}")
        yield match.group()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def shape_of(engine: Engine, num_streams: int) -> array[int]:
    """The beginning of an open loop's own plan, or streams that begin within one gap."""
    if engine.is_open_loop:
        try:
            times = list(engine.schedule(until_s=_LATEST_START_S).times_ns)[:_MOST_REQUESTS]
        except ValueError:  # a slow plan, of which nothing comes in the first second
            times = []
        if times:
            return array("q", times)
    spread_ns = round(GAP_MS * 1e6)
    count = min(num_streams, _MOST_REQUESTS)
    return array("q", (spread_ns * k // count for k in range(count)))


def send_schedule(
    endpoint: Endpoint, times_ns: array[int], *, num_tokens: int, tries: Tries = attempt
) -> tuple[list[RequestRecord], int]:
    """Sends a small request at each of the times; the records of those that succeeded, and the
    `perf_counter_ns` that their times count from."""
    workload = Workload(
        seed=1,
        adapters=mix_of([]),
        prompts=RandomWords(Lengths.const(8)),
        max_tokens=Lengths.const(num_tokens),
    )
    wire = Wire(endpoint=endpoint, base_model="mock-base")
    run = RunState()
    records: list[RequestRecord] = []
    idle: list[Connection] = []

    def visit(planned: PlannedRequest) -> None:
        connection = idle.pop() if idle else Connection(endpoint, connect_timeout_s=5.0)
        attempted = tries(
            planned,
            wire=wire,
            connection=connection,
            limits=Limits(),
            origin_ns=run.origin_ns,
            sender=Sender(phase="calibrate"),
        )
        idle.append(connection)
        records.append(attempted.record)

    pacer = Pacer(Schedule(workload, times_ns), run=run, visit=visit)
    pacer.run()
    pacer.drain(timeout_s=60.0)
    for connection in idle:
        connection.close()
    return [record for record in records if record.outcome == "ok"], run.origin_ns


def compare_stamps(
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> tuple[list[float], list[float]]:
    """Absolute errors of first stamps and of gaps, ascending, in milliseconds.

    A pair is a stream's stamps and the times at which its events were written, equally many.
    """
    ttft: list[float] = []
    gap: list[float] = []
    for stamps_ns, sent_ns in pairs:
        ttft.append(abs(stamps_ns[0] - sent_ns[0]) / 1e6)
        for (a, b), (sent_a, sent_b) in zip(pairwise(stamps_ns), pairwise(sent_ns), strict=True):
            gap.append(abs((b - a) - (sent_b - sent_a)) / 1e6)
    return sorted(ttft), sorted(gap)


def _compare(
    pairs: Sequence[tuple[RequestRecord, ServedTimes]],
    *,
    origin_ns: int,
    cpu_s: float,
    wall_s: float,
) -> Calibration:
    sent = [[stamp - origin_ns for stamp in served.sent_ns] for _, served in pairs]
    records = [record for record, _ in pairs]
    ttft, gap = compare_stamps(zip((r.event_ns for r in records), sent, strict=True))
    user_ttft, user_gap = compare_stamps(zip((r.event_user_ns for r in records), sent, strict=True))
    lags = sorted((r.t_send_ns - r.t_sched_ns) / 1e6 for r in records if r.t_send_ns is not None)
    num_events = sum(len(record.event_tokens) for record in records)
    return Calibration(
        num_requests=len(pairs),
        num_events=num_events,
        events_per_s=num_events / wall_s,
        ttft_error_p50_ms=_at(ttft, 0.5),
        ttft_error_p99_ms=_at(ttft, 0.99),
        gap_error_p50_ms=_at(gap, 0.5),
        gap_error_p99_ms=_at(gap, 0.99),
        user_ttft_error_p99_ms=_at(user_ttft, 0.99),
        user_gap_error_p99_ms=_at(user_gap, 0.99),
        lag_p99_ms=_at(lags, 0.99),
        kernel_stamps=sum(record.kernel_stamps for record in records) / len(records),
        cpu_us_per_event=cpu_s * 1e6 / max(1, num_events),
    )


def _at(ordered: list[float], q: float) -> float:
    return quantile(ordered, q) if ordered else 0.0
