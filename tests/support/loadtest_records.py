"""Records written by hand, in milliseconds."""

from __future__ import annotations

from typing import Any

from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.outcomes import Outcome
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.run_facts import RunFacts


def make_record(
    *,
    sched_ms: float = 0.0,
    send_ms: float | None = None,
    conn_ms: float | None = None,
    events_ms: tuple[float, ...] = (),
    user_ms: tuple[float, ...] | None = None,
    tokens: tuple[int, ...] | None = None,
    completion_tokens: int | None = None,
    outcome: Outcome = "ok",
    adapter: str | None = None,
    user: int = 0,
    index: int = 0,
    end_ms: float | None = None,
    max_tokens: int = 64,
    timings: dict[str, Any] | None = None,
    request_id: str | None = None,
) -> RequestRecord:
    """One attempt; an event has one token and the stream ends with it unless said otherwise.

    With `user_ms` the events' times are the kernel's, and these the program's.
    """
    event_tokens = tokens or (1,) * len(events_ms)
    last_ms = events_ms[-1] if events_ms else sched_ms
    stamps = tuple(_ns(ms) for ms in events_ms)
    return RequestRecord(
        index=index,
        level=1,
        worker=0,
        user=user,
        adapter=adapter,
        prompt_tokens_planned=8,
        max_tokens=max_tokens,
        outcome=outcome,
        t_sched_ns=_ns(sched_ms),
        t_send_ns=_ns(sched_ms if send_ms is None else send_ms),
        t_conn_ns=None if conn_ms is None else _ns(conn_ms),
        t_done_ns=_ns(last_ms) if outcome == "ok" else None,
        t_end_ns=_ns(last_ms if end_ms is None else end_ms),
        event_kernel_ns=() if user_ms is None else stamps,
        event_user_ns=stamps if user_ms is None else tuple(_ns(ms) for ms in user_ms),
        kernel_stamps=user_ms is not None,
        event_tokens=event_tokens,
        tokens_stated=True,
        usage_completion=sum(event_tokens) if completion_tokens is None else completion_tokens,
        finish_reason="length" if outcome == "ok" else None,
        server_timings=timings,
        request_id=request_id,
    )


def make_run(
    *records: RequestRecord,
    concurrency: int = 1,
    window_ms: tuple[float, float] = (0, 1000),
    facts: RunFacts | None = None,
    rate_per_s: float | None = None,
) -> LevelRun:
    return LevelRun(
        concurrency=concurrency,
        start_ns=0,
        window_start_ns=_ns(window_ms[0]),
        window_end_ns=_ns(window_ms[1]),
        drained_ns=_ns(window_ms[1]),
        client_cpu_share=0.1,
        records=records,
        rate_per_s=rate_per_s,
        facts=facts or RunFacts(),
    )


def _ns(ms: float) -> int:
    return round(ms * 1e6)
