"""Records written by hand, in milliseconds."""

from __future__ import annotations

from lorry_loadtest.outcomes import Outcome
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.level_run import LevelRun


def make_record(
    *,
    sched_ms: float = 0.0,
    send_ms: float | None = None,
    events_ms: tuple[float, ...] = (),
    tokens: tuple[int, ...] | None = None,
    completion_tokens: int | None = None,
    outcome: Outcome = "ok",
    adapter: str | None = None,
    user: int = 0,
    end_ms: float | None = None,
    max_tokens: int = 64,
) -> RequestRecord:
    """One attempt; an event has one token and the stream ends with it unless said otherwise."""
    event_tokens = tokens or (1,) * len(events_ms)
    last_ms = events_ms[-1] if events_ms else sched_ms
    return RequestRecord(
        level=1,
        worker=0,
        user=user,
        request=0,
        adapter=adapter,
        prompt_words=8,
        max_tokens=max_tokens,
        outcome=outcome,
        t_sched_ns=_ns(sched_ms),
        t_send_ns=_ns(sched_ms if send_ms is None else send_ms),
        t_end_ns=_ns(last_ms if end_ms is None else end_ms),
        event_ns=tuple(_ns(ms) for ms in events_ms),
        event_tokens=event_tokens,
        tokens_stated=True,
        completion_tokens=sum(event_tokens) if completion_tokens is None else completion_tokens,
        finish_reason="length" if outcome == "ok" else None,
    )


def make_run(
    *records: RequestRecord, concurrency: int = 1, window_ms: tuple[float, float] = (0, 1000)
) -> LevelRun:
    return LevelRun(
        concurrency=concurrency,
        start_ns=0,
        window_start_ns=_ns(window_ms[0]),
        window_end_ns=_ns(window_ms[1]),
        drained_ns=_ns(window_ms[1]),
        client_cpu_share=0.1,
        records=records,
    )


def _ns(ms: float) -> int:
    return round(ms * 1e6)
