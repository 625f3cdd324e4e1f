"""Latency from the schedule against a server that stops for a while, and what it is in theory."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise

from loadtest_sections.clients import served_times
from loadtest_sections.load import FIRST_MS
from lorry_loadtest.calibration import mock_process, send_schedule
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.statistics.quantiles import quantile

_RATE_PER_S = 25.0
_STALL_AT_S = 3.0


@dataclass(frozen=True, slots=True)
class StallFigures:
    """The p99 of TTFT from the schedule over all requests. `stall_ms` is as it really was."""

    num_requests: int
    stall_ms: float
    p99_ms: float
    theory_p99_ms: float

    def __str__(self) -> str:
        return (
            f"stalled server ({self.num_requests} requests, {self.stall_ms:,.0f} ms): p99 of TTFT "
            f"from schedule {self.p99_ms:,.1f} ms, in theory {self.theory_p99_ms:,.1f} ms "
            f"({self.p99_ms / self.theory_p99_ms - 1:+.2%})"
        )


def stalled_server(*, seconds: float, stall_s: float) -> StallFigures:
    """Who arrives in the stall waits for its end, and then for the first token."""
    interval_ns = round(1e9 / _RATE_PER_S)
    times_ns = array("q", (k * interval_ns for k in range(round(_RATE_PER_S * seconds))))
    with mock_process(
        *("--first-ms", str(FIRST_MS), "--gap-ms", "5"),
        *("--stall-at", str(_STALL_AT_S), "--stall-for", str(stall_s)),
    ) as url:
        records, origin_ns = send_schedule(parse_endpoint(url), times_ns, num_tokens=4)
        served = served_times(url)
    ttft_ms = sorted((r.event_ns[0] - r.t_sched_ns) / 1e6 for r in records)
    # the largest hole in what the server read has the stall in it, as it really was
    received = sorted(one.received_ns - origin_ns for one in served)
    _, last_ns, end_ns = max(
        (after - before, before, after) for before, after in pairwise(received)
    )
    stall_ns = min(end_ns - last_ns, round(stall_s * 1e9))
    theory_ms = sorted(
        _theory_ttft_ms(at_ns, last_ns=last_ns, begin_ns=end_ns - stall_ns, end_ns=end_ns)
        for at_ns in times_ns
    )
    return StallFigures(
        num_requests=len(records),
        stall_ms=stall_ns / 1e6,
        p99_ms=quantile(ttft_ms, 0.99),
        theory_p99_ms=quantile(theory_ms, 0.99),
    )


def _theory_ttft_ms(at_ns: int, *, last_ns: int, begin_ns: int, end_ns: int) -> float:
    """`last_ns` is when the last request before the stall was read."""
    first_ns = round(FIRST_MS * 1e6)
    if last_ns < at_ns < end_ns:  # read when the server goes on
        return (end_ns - at_ns + first_ns) / 1e6
    if at_ns < begin_ns < at_ns + first_ns:  # its first token was due in the stall
        return max(end_ns - at_ns, first_ns) / 1e6
    return first_ns / 1e6
