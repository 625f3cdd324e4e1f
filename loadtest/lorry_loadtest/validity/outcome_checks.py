"""Checks of the attempts: failures, hidden retries, and what locust's own table says."""

from __future__ import annotations

from lorry_loadtest import metrics
from lorry_loadtest.server_counters import FINISHED_REQUESTS, growth
from lorry_loadtest.validity.finding import PAST_CAPACITY, Evidence, Finding, judged, unknown


def fast_failures(evidence: Evidence) -> Finding:
    """15: failures are quick, and leave only good answers to the latencies.

    What the drain limit cut off and what an impatient user left is censored in them instead.
    """
    limit = "at most 1 % failed"
    cohort = evidence.run.cohort
    if not cohort:
        return unknown("nothing was attempted", limit=limit)
    failed = sum(1 for record in cohort if record.outcome not in ("ok", "cancelled", "abandoned"))
    share = failed / len(cohort)
    text = f"{failed} of {len(cohort)} ({share:.1%})"
    if failed and evidence.is_past_capacity:
        return unknown(f"{text}; {PAST_CAPACITY}", limit=limit)
    return judged(share, warn=0.01, fail=0.10, text=text, limit=limit)


def bucketed_percentiles(evidence: Evidence) -> Finding:
    """20: ours are from raw values; how far locust's table, from rounded ones, is from them."""
    limit = "locust's p50 within 10 % of ours"
    table = evidence.facts.locust
    # what each row was told: failures have a duration too, and stand in its table
    latencies = (
        (r, metrics.e2e_ms(r) if r.outcome == "ok" else None) for r in evidence.run.measured
    )
    values = sorted(metrics.duration_ms(r) if ms is None else ms for r, ms in latencies)
    if table is None or table.p50_ms is None or not values:
        return unknown("no table of locust's", limit=limit)
    # the same rule as locust's table: the value at that place, without interpolation
    ours = values[max(0, round(0.5 * len(values)) - 1)]
    difference = abs(table.p50_ms - ours) / ours if ours else 0.0
    text = f"p50 {table.p50_ms:,.0f} ms there, {ours:,.1f} ms here"
    allowed = 0.10 + 1.0 / max(ours, 1.0)  # its smallest step is a millisecond
    return judged(difference, warn=allowed, fail=0.5 + allowed, text=text, limit=limit)


def hidden_retries(evidence: Evidence) -> Finding:
    """24: the server must have had as many requests as were counted here."""
    limit = "requests finished by the server = attempts that succeeded"
    attempts = evidence.run.measured
    if not attempts or any(record.outcome != "ok" for record in attempts):
        return unknown("compared only when every attempt succeeded", limit=limit)
    served = growth(
        evidence.facts.observations.server,
        FINISHED_REQUESTS,
        start_ns=min(record.t_sched_ns for record in attempts),
        end_ns=max(record.t_end_ns for record in attempts),
    )
    if served is None:
        return unknown("the server has no such counter", limit=limit)
    text = f"server {served:,.0f}, here {len(attempts):,}"
    return judged(abs(served - len(attempts)), warn=0, fail=0, text=text, limit=limit)


def rows_are_requests(evidence: Evidence) -> Finding:
    """28: exactly one row of locust's per attempt."""
    limit = "one row per attempt"
    table = evidence.facts.locust
    if table is None:
        return unknown("no table of locust's", limit=limit)
    num = len(evidence.run.measured)
    text = f"{table.num_requests:,} rows, {num:,} attempts"
    return judged(abs(table.num_requests - num), warn=0, fail=0, text=text, limit=limit)
