"""Checks of the load: whether what was sent is what was planned, when it was planned."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lorry_loadtest import metrics
from lorry_loadtest.statistics.goodness import gamma_cdf, ks_distance, ks_p_value
from lorry_loadtest.statistics.quantiles import quantile
from lorry_loadtest.validity.finding import PAST_CAPACITY, Evidence, Finding, judged, unknown

_MIN_REQUESTS = 20
_MIN_GAPS = 50
_HERD_SHARE = 0.1


def coordinated_omission(evidence: Evidence) -> Finding:
    """9: how late requests left, and whether all of them did.

    Headline latencies count from the schedule, so lateness is inside them; it is then the client's.
    """
    limit = "lag p99 < 5 ms or 1 % of TTFT p50, and 99 % of arrivals sent"
    observed = evidence.facts.observations
    lags = sorted(
        lag - metrics.connect_ms(record)
        for record in evidence.run.cohort
        if (lag := metrics.lag_ms(record)) is not None
    )
    if not lags:
        return unknown("nothing was sent", limit=limit)
    dropped = sum(report.num_dropped for report in observed.workers)
    due = observed.num_due or observed.num_planned or 0
    sent_share = 1.0 - dropped / due if due else 1.0
    late = quantile(lags, 0.99)
    allowed = max(5.0, 0.01 * (evidence.summary.latencies.ttft_ms.p50 or 0.0))
    text = f"lag p99 {late:.2f} ms, {sent_share:.1%} sent"
    if sent_share < 0.95:
        return Finding(status="fail", value=text, limit=limit)
    if sent_share < 0.99:
        return Finding(status="warn", value=text, limit=limit)
    return judged(late, warn=allowed, fail=10 * allowed, text=text, limit=limit)


def closed_loop(evidence: Evidence) -> Finding:
    """10: Little's law on the window, and a label for loads that wait for the server."""
    limit = "concurrency = rate x time within 5 %; a closed loop no more than its users"
    law = evidence.summary.littles_law
    if law is None or evidence.summary.ok < _MIN_REQUESTS:
        return unknown("too few requests", limit=limit)
    if evidence.is_past_capacity:
        return unknown(PAST_CAPACITY, limit=limit)
    kind = "closed loop" if evidence.facts.declared.arrival == "closed" else "open loop"
    text = f"{kind}: {law.mean_in_flight:.2f} in flight, rate x time {law.product:.2f}"
    # a request that crosses an edge of the window counts whole on one side and in part on the other
    allowed = 0.05 + min(0.10, law.mean_in_flight / evidence.summary.ok)
    users = evidence.run.concurrency
    if evidence.facts.declared.arrival == "closed" and law.mean_in_flight > 1.05 * users:
        return Finding(status="fail", value=f"{text}, of {users} users", limit=limit)
    return judged(law.relative_error, warn=allowed, fail=0.15 + allowed, text=text, limit=limit)


def thundering_herd(evidence: Evidence) -> Finding:
    """11: whether TTFT is only the place in a queue that all requests joined at once."""
    limit = "arrivals spread over more than a tenth of the answers' time; no steady growth of TTFT"
    if evidence.facts.declared.arrival == "closed":
        return Finding(status="pass", value="users wait for their answers", limit=limit)
    cohort = [record for record in evidence.run.cohort if record.event_ns]
    if len(cohort) < _MIN_REQUESTS:
        return unknown(f"{len(cohort)} answers", limit=limit)
    begin = cohort[0].t_sched_ns
    spread = cohort[-1].t_sched_ns - begin
    whole = max(record.event_ns[0] for record in cohort) - begin
    if spread < _HERD_SHARE * whole:
        text = f"all arrived within {spread / 1e9:.2f} s"
        return Finding(status="fail", value=text, limit=limit)
    times = [(record.t_sched_ns - begin) / 1e9 for record in cohort]
    ttfts = [(metrics.ttft_ms(record) or 0.0) / 1e3 for record in cohort]
    slope, correlation = _line(times, ttfts)
    text = f"TTFT grows {slope * 1e3:.1f} ms per second (r {correlation:.2f})"
    grows = slope > 0.05 and correlation > 0.7 and not evidence.is_past_capacity
    return Finding(status="warn" if grows else "pass", value=text, limit=limit)


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Slope of the least-squares line, and the correlation."""
    n = len(xs)
    mean_x, mean_y = math.fsum(xs) / n, math.fsum(ys) / n
    xx = math.fsum((x - mean_x) ** 2 for x in xs)
    yy = math.fsum((y - mean_y) ** 2 for y in ys)
    xy = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    if not xx or not yy:
        return 0.0, 0.0
    return xy / xx, xy / math.sqrt(xx * yy)


def arrival_law(evidence: Evidence) -> Finding:
    """19: the stream is the planned one, once, and its arrivals follow the declared law.

    Workers that share a seed, or each send the whole rate, show in repeated indices, another hash,
    a rate that is a multiple, or times between arrivals of another distribution.
    """
    limit = "stream hash as planned, no index twice, rate within 5 sigma, KS p > 0.001"
    observed, declared = evidence.facts.observations, evidence.facts.declared
    # a closed loop sends as much of its endless stream as there is time for, and so does an open
    # one that somebody ends before its plan
    is_whole = declared.arrival != "closed" and observed.num_due in (None, observed.num_planned)
    has_hashes = bool(observed.stream_hash and observed.sent_hash)
    if is_whole and has_hashes and observed.stream_hash != observed.sent_hash:
        text = f"sent {observed.sent_hash[:12]}, planned {observed.stream_hash[:12]}"
        return Finding(status="fail", value=text, limit=limit)
    places = [
        (record.scenario, record.level, record.index) for record in evidence.run.measured
    ]  # each user class has a stream of its own
    if len(set(places)) < len(places):
        text = f"{len(places) - len(set(places))} indices twice"
        return Finding(status="fail", value=text, limit=limit)
    stamps = sorted(record.t_sched_ns for record in evidence.run.measured)
    gaps = [(stamps[i] - stamps[i - 1]) / 1e9 for i in range(1, len(stamps))]
    if declared.rate_per_s is None or declared.arrival_cv is None or len(gaps) < _MIN_GAPS:
        text = "a closed loop" if declared.arrival == "closed" else f"{len(gaps)} arrivals"
        return Finding(status="pass", value=text, limit=limit)
    return _against_law(
        evidence, gaps, rate=declared.rate_per_s, cv=declared.arrival_cv, limit=limit
    )


def _against_law(
    evidence: Evidence, gaps: Sequence[float], *, rate: float, cv: float, limit: str
) -> Finding:
    n = len(gaps)
    mean = math.fsum(gaps) / n
    spread = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / n)
    text = f"{1 / mean if mean else math.inf:.2f}/s for {rate:.2f}/s, CV {spread / mean if mean else 0:.2f} for {cv:.2f}"
    if abs(mean * rate - 1.0) > 5 * cv / math.sqrt(n) + 0.02:
        return Finding(status="fail", value=text, limit=limit)
    if cv < 0.05:
        return judged(spread / mean, warn=0.1, fail=0.3, text=text, limit=limit)
    shape = 1.0 / (cv * cv)
    distance = ks_distance(gaps, lambda x: gamma_cdf(x, shape=shape, scale=1.0 / rate / shape))
    p = ks_p_value(distance, n)
    text += f", KS p {p:.3f}"
    warn, fail = -evidence.chance(0.001), -evidence.chance(0.0001)
    return judged(-p, warn=warn, fail=fail, text=text, limit=limit)
