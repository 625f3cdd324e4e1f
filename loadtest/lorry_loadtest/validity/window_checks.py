"""Checks of the window and of the samples in it."""

from __future__ import annotations

import math
from collections import defaultdict

from lorry_loadtest.headline import format_streams
from lorry_loadtest.settle import changes_by_plan, settling
from lorry_loadtest.statistics.quantiles import samples_needed
from lorry_loadtest.validity.finding import PAST_CAPACITY, Evidence, Finding, judged, unknown

_SIGMAS = 4.0
_MIN_REQUESTS = 20


def steadiness(evidence: Evidence) -> Finding:
    """12: whether the window is one regime: settled by MSER-5, and its halves alike."""
    limit = "settled within the window; halves differ by < 10 % in TPOT and tokens/s, or by chance"
    if changes_by_plan(evidence.run):
        return unknown("the load itself changes", limit=limit)
    if evidence.is_past_capacity:
        return unknown(PAST_CAPACITY, limit=limit)
    found = settling(evidence.run)
    drifts = [
        (abs(drift.relative) if drift.significance > _SIGMAS else 0.0, name, drift)
        for name, drift in (("TPOT", found.tpot_drift), ("tokens/s", found.throughput_drift))
        if drift is not None
    ]
    if not drifts:
        return unknown("too short to tell", limit=limit)
    worst, name, drift = max(drifts, key=lambda entry: (entry[0], abs(entry[2].relative)))
    text = f"{name} {drift.relative:+.1%} in the second half ({drift.significance:.1f} sigma)"
    if found.cut_ns is None and worst <= 0.3:
        return Finding(status="warn", value=f"never settled; {text}", limit=limit)
    return judged(worst, warn=0.1, fail=0.3, text=text, limit=limit)


def ramp_and_drain(evidence: Evidence) -> Finding:
    """13: throughput is of the window alone; it must be long against an answer."""
    limit = "window at least 3 mean answers long"
    summary = evidence.summary
    mean_s = (summary.latencies.e2e_ms.mean or 0.0) / 1e3
    if mean_s <= 0:
        return unknown("no answer", limit=limit)
    lengths = summary.window_s / mean_s
    text = (
        f"{lengths:.1f} answers long; {summary.output_tokens_per_s:,.1f} tokens/s, "
        f"whole run {summary.whole_run_tokens_per_s:,.1f}"
    )
    return judged(-lengths, warn=-3.0, fail=-1.0, text=text, limit=limit)


def survivorship(evidence: Evidence) -> Finding:
    """14: nothing that was attempted may be missing; what was cut off is censored, not removed."""
    limit = "attempted = ok + failed + censored; at most 1 % censored"
    observed = evidence.facts.observations
    attempts = evidence.run.measured
    lost = (observed.num_workers or 0) - len(observed.workers)
    if lost > 0:
        text = f"{lost} of {observed.num_workers} workers handed nothing over"
        return Finding(status="fail", value=text, limit=limit)
    written = sum(report.num_records for report in observed.workers)
    if observed.workers and written != len(attempts):
        text = f"workers wrote {written} records, {len(attempts)} are here"
        return Finding(status="fail", value=text, limit=limit)
    dropped = sum(report.num_dropped for report in observed.workers)
    due = observed.num_planned if observed.num_due is None else observed.num_due
    if due is not None and evidence.facts.declared.arrival != "closed":
        missing = due - len(attempts)
        if missing > dropped:
            text = f"{missing} of {due} planned have no record"
            return Finding(status="fail", value=text, limit=limit)
    if not attempts:
        return unknown("nothing was attempted", limit=limit)
    censored = sum(1 for record in evidence.run.cohort if record.outcome == "cancelled")
    share = censored / max(1, evidence.summary.attempted)
    text = f"{censored} of {evidence.summary.attempted} censored"
    fail = math.inf if evidence.is_past_capacity else 0.10
    return judged(share, warn=0.01, fail=fail, text=text, limit=limit)


def sample_size(evidence: Evidence) -> Finding:
    """16: enough samples for every percentile that an objective asks for.

    In a sweep the level with the highest throughput needs them; of the others a median is enough,
    since what they have too few for is not shown.
    """
    needed = _MIN_REQUESTS
    highest = max((level.output_tokens_per_s for level in evidence.levels), default=0.0)
    is_best = evidence.summary.output_tokens_per_s >= highest
    for result in evidence.summary.objectives:
        statistic = result.objective.statistic
        if is_best and statistic.startswith("p"):
            needed = max(needed, samples_needed(int(statistic[1:]) / 100))
    limit = f"at least {needed} finished requests"
    n = evidence.summary.ok
    if n == 0:
        return Finding(status="fail", value="none", limit=limit)
    return judged(-n, warn=-needed, fail=math.inf, text=f"{n}", limit=limit)


def hysteresis(evidence: Evidence) -> Finding:
    """29: a level measured on the way up and again on the way down must say the same."""
    limit = "tokens/s up and down within 10 %"
    by_load: dict[tuple[int, float | None], dict[bool, float]] = defaultdict(dict)
    for level in evidence.levels:
        key = (level.concurrency if level.rate_per_s is None else 0, level.rate_per_s)
        by_load[key][level.descending] = level.output_tokens_per_s
    differences = [
        (abs(both[True] / both[False] - 1.0), key)
        for key, both in by_load.items()
        if len(both) == 2 and both[False] > 0
    ]
    if not differences:
        return unknown("levels were measured once", limit=limit)
    worst, (concurrency, rate) = max(differences)
    place = format_streams(concurrency) if rate is None else f"{rate:g} req/s"
    return judged(worst, warn=0.10, fail=0.5, text=f"{worst:.1%} at {place}", limit=limit)
