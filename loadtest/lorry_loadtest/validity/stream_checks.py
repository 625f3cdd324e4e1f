"""Checks of what came over the wire: one event per token, as it was made, to the end."""

from __future__ import annotations

from lorry_loadtest import metrics
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.server_timings import request_timings
from lorry_loadtest.validity.finding import Evidence, Finding, judged, unknown

_MIN_TOKENS = 10
# No model writes a token in so short a time; a buffer that is emptied does.
_AT_ONCE_MS_PER_TOKEN = 1.0
# What two machines' stamps of the same span may differ by.
_CLOCKS_MS = 1.0


def chunk_batching(evidence: Evidence) -> Finding:
    """3: events per token. With fewer, a chunk gap is not the time of a token.

    The tokens are the server's count: of a server that tells none, each event would pass for one.
    """
    limit = "at least 0.9 events per token; else ITL is not shown"
    told = [
        record
        for record in evidence.run.cohort
        if record.outcome == "ok" and (record.tokens_stated or record.usage_completion is not None)
    ]
    num_tokens = sum(record.completion_tokens for record in told)
    if not num_tokens:
        return unknown("the server counts no tokens", limit=limit)
    share = sum(len(record.event_tokens) for record in told) / num_tokens
    return judged(-share, warn=-0.9, fail=0.0, text=f"{share:.2f} events per token", limit=limit)


def buffered_stream(evidence: Evidence) -> Finding:
    """4: the share of answers that came at once although they were not made at once.

    By the server's own decode time where it tells; else an answer of more than ten tokens whose
    first came after nine tenths of its time, and the others within a millisecond each.
    """
    limit = "at most 5 % of answers arrive at once; no compression"
    encoding = next((r.content_encoding for r in evidence.run.measured if r.content_encoding), None)
    if encoding is not None:
        return Finding(status="fail", value=f"content-encoding {encoding}", limit=limit)
    answers = [
        record
        for record in evidence.run.cohort
        if record.outcome == "ok" and record.completion_tokens > _MIN_TOKENS and record.event_ns
    ]
    if not answers:
        return unknown("no answer of more than ten tokens", limit=limit)
    share = sum(_came_at_once(record) for record in answers) / len(answers)
    return judged(share, warn=0.05, fail=0.5, text=f"{share:.1%} at once", limit=limit)


def _came_at_once(record: RequestRecord) -> bool:
    spread_ms = (record.event_ns[-1] - record.event_ns[0]) / metrics.NS_PER_MS
    timings = request_timings(record.server_timings)
    if timings is not None:
        return timings.decode_ms > 5.0 and spread_ms < 0.5 * timings.decode_ms
    whole_ms = spread_ms + (metrics.ttft_service_ms(record) or 0.0)
    # a long queue before a short answer looks the same but for its pace
    return spread_ms < min(0.1 * whole_ms, _AT_ONCE_MS_PER_TOKEN * record.completion_tokens)


def early_first_event(evidence: Evidence) -> Finding:
    """5: a first event before the server had made a token would make TTFT too good.

    An event without a token (a role, an empty delta) is none to this client, and starts no clock.
    What carries text may come too soon all the same: sooner after the send than the server itself
    took to its first token.
    """
    limit = "no first event sooner than the server's queue and prefill; those without a token are left out"
    waits = [
        (waited_ms, timings.queue_ms + timings.prefill_ms)
        for record in evidence.run.measured
        if (waited_ms := metrics.ttft_service_ms(record)) is not None
        and (timings := request_timings(record.server_timings)) is not None
    ]
    if not waits:
        return unknown("the server does not tell when its first token was made", limit=limit)
    early = sum(1 for waited_ms, made_ms in waits if waited_ms < made_ms - _CLOCKS_MS)
    return judged(early, warn=0, fail=0, text=f"{early} of {len(waits)} too soon", limit=limit)


def truncated_success(evidence: Evidence) -> Finding:
    """23: an answer is a success only with a finish reason and the end of its stream.

    This client records any other answer as `truncated`; the check holds the records to that.
    """
    limit = "every success has a finish reason and [DONE]; what has not is recorded as truncated"
    finished = [record for record in evidence.run.measured if record.outcome == "ok"]
    cut = sum(1 for r in finished if r.finish_reason is None or r.t_done_ns is None)
    return judged(cut, warn=0, fail=0, text=f"{cut} of {len(finished)} without", limit=limit)
