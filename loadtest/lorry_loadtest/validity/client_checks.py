"""Checks of the client itself: whether it was fast enough, and alone enough, to measure."""

from __future__ import annotations

from bisect import bisect_right

from lorry_loadtest import metrics
from lorry_loadtest.observations import HostFacts
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.server_counters import RUNNING, WAITING, total
from lorry_loadtest.statistics.quantiles import quantile
from lorry_loadtest.validity.finding import SEVERITY, Evidence, Finding, judged, unknown

_MIN_HEARTBEATS = 100
_MIN_GAPS = 100
_STEP_NS = 5_000_000
# A report has the latest of each ten heartbeats. All ten are under the 99th percentile as often.
_P99_OF_TEN = 0.99**10
# Some of the processors' time was waited for: below it a server on the same machine took nothing.
_FELT_PRESSURE = 0.05


def saturation(evidence: Evidence) -> Finding:
    """1: how long tokens lay in the kernel, how late a heartbeat came, how busy a worker was.

    The worst of the three against its own limit. Kernel stamps keep the figures right when the
    program is late, so then it only warns.
    """
    limit = "tokens taken within 2 ms or 5 % of a gap (p99), heartbeat p99 < 10 ms, CPU < 70 %"
    measured = [(evidence.run.client_cpu_share / 0.7, f"CPU {evidence.run.client_cpu_share:.0%}")]
    stamped = [record for record in evidence.run.measured if record.kernel_stamps]
    delays = sorted(delay for record in stamped for delay in metrics.delivery_ms(record))
    if delays:
        median_gap = evidence.summary.latencies.gap_ms.p50 or 0.0
        late = quantile(delays, 0.99)
        measured.append((late / max(2.0, 0.05 * median_gap), f"taken after {late:.2f} ms (p99)"))
    for report in evidence.facts.observations.workers:
        lags = sorted(report.heartbeat_lags_ms)
        if len(lags) >= _MIN_HEARTBEATS:
            late = quantile(lags, _P99_OF_TEN)
            measured.append((late / 10.0, f"heartbeat {late:.1f} ms late (p99)"))
        if report.wall_s > 0:
            share = report.cpu_s / report.wall_s
            measured.append((share / 0.7, f"worker {report.worker} CPU {share:.0%}"))
    worst, text = max(measured)
    all_stamped = bool(stamped) and all(
        r.kernel_stamps or not r.event_ns for r in evidence.run.measured
    )
    return judged(
        worst, warn=1.0, fail=float("inf") if all_stamped else 1.5, text=text, limit=limit
    )


def read_coalescing(evidence: Evidence) -> Finding:
    """2: the share of gaps under 1 ms where the median of the others says that steps are longer."""
    limit = "at most 5 % of gaps under 1 ms where steps take longer"
    gaps = [
        (stamps[j] - stamps[j - 1]) / metrics.NS_PER_MS
        for record in evidence.run.cohort
        if record.outcome == "ok"
        for stamps in (record.event_user_ns,)
        for j in range(1, len(stamps))
    ]
    if len(gaps) < _MIN_GAPS:
        return unknown(f"{len(gaps)} gaps", limit=limit)
    longer = sorted(gap for gap in gaps if gap >= 1.0)
    step_ms = quantile(longer, 0.5) if longer else 0.0
    share = 1.0 - len(longer) / len(gaps)
    if step_ms < 5.0:
        return Finding(status="pass", value=f"steps of {step_ms:.1f} ms", limit=limit)
    text = f"{share:.1%} of gaps under 1 ms, the others {step_ms:.0f} ms"
    return judged(share, warn=0.05, fail=0.25, text=text, limit=limit)


def connection_set_up(evidence: Evidence) -> Finding:
    """17: how many requests had to open their connection first, and what that took."""
    limit = "at most 10 % of requests on a new connection, or a connect under 1 % of TTFT"
    cohort = [record for record in evidence.run.cohort if record.t_send_ns is not None]
    if not cohort:
        return unknown("no request was sent", limit=limit)
    fresh = sorted(metrics.connect_ms(r) for r in cohort if r.t_conn_ns is not None)
    share = len(fresh) / len(cohort)
    took = quantile(fresh, 0.5) if fresh else 0.0
    text = f"{share:.0%} new" + (f", {took:.2f} ms each" if fresh else "")
    ttft = evidence.summary.latencies.ttft_ms.mean or 0.0
    if took <= 0.01 * ttft:
        return Finding(status="pass", value=text, limit=limit)
    return judged(share, warn=0.1, fail=float("inf"), text=text, limit=limit)


def pool_limit(evidence: Evidence) -> Finding:
    """18: whether the client kept back requests that the server should have had."""
    limit = "no request kept back; client's streams = server's running + waiting, within 10 %"
    kept_back = evidence.summary.ledger.get("client_overload", 0)
    if kept_back:
        return Finding(status="fail", value=f"{kept_back} had no room in the client", limit=limit)
    for report in evidence.facts.observations.workers:
        room = report.most_streams
        if room is not None and report.max_in_flight >= room:
            text = f"all {room} streams of worker {report.worker} were in use"
            return Finding(status="fail", value=text, limit=limit)
    differences = _differences(evidence)
    if not differences:
        return unknown("no samples of /metrics", limit=limit)
    median = quantile(sorted(differences), 0.5)
    text = f"median difference {median:.1f} streams"
    allowed = max(2.0, 0.1 * evidence.run.concurrency)
    return judged(median, warn=allowed, fail=5 * allowed, text=text, limit=limit)


def _differences(evidence: Evidence) -> list[float]:
    sent = [(r.t_send_ns, r.t_end_ns) for r in evidence.run.measured if r.t_send_ns is not None]
    begins = sorted(begin for begin, _ in sent)
    ends = sorted(end for _, end in sent)
    found = []
    for sample in evidence.facts.observations.server:
        running, waiting = total(sample, RUNNING), total(sample, WAITING)
        if running is None or waiting is None or not evidence.run.contains(sample.t_ns):
            continue
        ours = bisect_right(begins, sample.t_ns) - bisect_right(ends, sample.t_ns)
        found.append(abs(ours - running - waiting))
    return found


def shared_machine(evidence: Evidence) -> Finding:
    """25: whether something else took the processor, or the server runs on the client's cores."""
    limit = "own cores, steal < 2 %, CPU pressure < 20 %, no powersave, no clock drop over 10 %"
    hosts = [report.host for report in evidence.facts.observations.workers if report.host]
    if not hosts:
        return unknown("the machine was not watched", limit=limit)
    return max(
        (_watched(host, limit=limit) for host in hosts), key=lambda found: SEVERITY[found.status]
    )


def _watched(host: HostFacts, *, limit: str) -> Finding:
    """Of one worker's machine."""
    if host.steal_share is not None and host.steal_share > 0.10:
        return Finding(status="fail", value=f"{host.steal_share:.0%} steal", limit=limit)
    is_felt = host.pressure_share is None or host.pressure_share > _FELT_PRESSURE
    faults = [
        text
        for is_wrong, text in (
            ((host.steal_share or 0.0) > 0.02, f"{host.steal_share or 0.0:.1%} steal"),
            ((host.pressure_share or 0.0) > 0.20, f"CPU pressure {host.pressure_share or 0.0:.0%}"),
            (host.governor == "powersave", "governor powersave"),
            ((host.frequency_drop or 0.0) > 0.10, f"clock fell {host.frequency_drop or 0.0:.0%}"),
            (host.shares_cores is True and is_felt, "client and server share cores"),
        )
        if is_wrong
    ]
    return Finding(
        status="warn" if faults else "pass", value="; ".join(faults) or "undisturbed", limit=limit
    )


def clock_steps(evidence: Evidence) -> Finding:
    """27: no interval may be negative, and the wall clock, which the kernel stamps by, not jump."""
    limit = "no negative interval, no jump of the wall clock over 5 ms"
    backwards = sum(_goes_backwards(record) for record in evidence.run.measured)
    if backwards:
        return Finding(status="fail", value=f"{backwards} records go backwards", limit=limit)
    jump = 0
    for report in evidence.facts.observations.workers:
        offsets = [sample.realtime_offset_ns for sample in report.clock]
        steps = [abs(offsets[i] - offsets[i - 1]) for i in range(1, len(offsets))]
        jump = max([jump, *steps])
    stamped = any(record.kernel_stamps for record in evidence.run.measured)
    return judged(
        jump,
        warn=_STEP_NS,
        fail=_STEP_NS if stamped else float("inf"),
        text=f"largest jump {jump / 1e6:.2f} ms",
        limit=limit,
    )


def _goes_backwards(record: RequestRecord) -> bool:
    stamps = [record.t_sched_ns]
    if record.t_conn_ns is not None:
        stamps.append(record.t_conn_ns)
    if record.t_send_ns is not None:
        stamps.append(record.t_send_ns)
    stamps.extend(record.event_ns)
    return any(stamps[i] < stamps[i - 1] for i in range(1, len(stamps)))
