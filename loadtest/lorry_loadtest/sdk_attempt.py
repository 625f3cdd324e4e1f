"""One planned request through the async SDK, recorded like one of our own transport.

What the SDK does in its client is then in the latencies: its pool, its parsing, its objects. Stamps
are its own, of the reads in user space; it makes one attempt, so that nothing is sent twice unseen.
"""

from __future__ import annotations

import asyncio
import time
from itertools import groupby
from typing import Any

from gevent import GreenletExit

import lorry
from lorry_loadtest.attempted import (
    Attempted,
    Sender,
    Verify,
    complaint_of,
    hash_of,
    record_of,
)
from lorry_loadtest.connection import Connection
from lorry_loadtest.limits import Limits
from lorry_loadtest.outcomes import Outcome, outcome_of_status
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.sdk_loop import SDK_LOOP
from lorry_loadtest.wire import Wire

_clients: dict[tuple[str, str | None], lorry.AsyncClient] = {}


def sdk_attempt(
    planned: PlannedRequest,
    *,
    wire: Wire,
    connection: Connection,
    limits: Limits,
    origin_ns: int,
    start_ns: int = 0,
    sender: Sender | None = None,
    verify: Verify | None = None,
) -> Attempted:
    """Like `attempt`; `connection` is left alone, since the SDK has a pool of its own.

    Raises ValueError for a route that the SDK does not stream.
    """
    if planned.route == "lorax":
        raise ValueError("the SDK streams the routes completions and chat, not lorax")
    now_ns = time.perf_counter_ns() - origin_ns
    request_id = wire.request_id(planned)
    outcome: Outcome = "ok"
    error: str | None = None
    interrupted: GreenletExit | None = None
    stream = _stream(planned, wire=wire, limits=limits, request_id=request_id)
    try:
        SDK_LOOP.run(_read_whole(stream, planned.patience_s))
        complaint = complaint_of(verify, planned, stream.partial.text)
        if complaint is not None:
            outcome, error = "wrong_output", complaint
    except GreenletExit as exc:
        outcome, error, interrupted = "cancelled", "stopped at the drain limit", exc
    except TimeoutError:
        outcome, error = "abandoned", f"left after {planned.patience_s:.3g} s"
    except lorry.ClientError as exc:
        outcome, error = _outcome_of(exc), str(exc)
    t_end_ns = time.perf_counter_ns()
    generation = stream.partial
    timing = generation.timing
    events = _events_of(generation.tokens or ())
    usage = generation.usage
    told = usage.source == "server"
    server: Any = generation.server
    record = record_of(
        planned,
        sender=sender,
        begin_ns=now_ns,
        start_ns=start_ns,
        client="sdk",
        t_send_ns=None if timing.sent_ns is None else timing.sent_ns - origin_ns,
        event_user_ns=tuple(stamp - origin_ns for stamp, _ in events),
        event_tokens=tuple(count for _, count in events),
        t_done_ns=None if timing.done_ns is None else timing.done_ns - origin_ns,
        t_end_ns=t_end_ns - origin_ns,
        outcome=outcome,
        error=error,
        finish_reason=generation.finish_reason,
        usage_prompt=usage.prompt_tokens if told else None,
        usage_completion=usage.completion_tokens if told else None,
        cached_tokens=usage.cached_tokens,
        text_hash=hash_of(generation.text) if outcome in ("ok", "wrong_output") else None,
        request_id=generation.request_id,
        server_timings=None if server is None else _as_dict(server),
        reused_connection=bool(timing.reused_connection),
        num_reads=len(events),
        tokens_stated=generation.token_ids is not None,
    )
    return Attempted(record, generation.text, interrupted)


def _stream(
    planned: PlannedRequest, *, wire: Wire, limits: Limits, request_id: str
) -> lorry.TokenStream:
    key = (str(wire.endpoint), wire.api_key)
    client = _clients.get(key)
    if client is None:
        client = _clients[key] = lorry.AsyncClient(
            str(wire.endpoint), api_key=wire.api_key, retry=lorry.RetryPolicy(max_attempts=1)
        )
    options: dict[str, Any] = {
        "max_tokens": planned.max_tokens,
        "adapter": planned.adapter,
        "temperature": 0.0,
        "request_id": request_id,
        "timeout": lorry.Timeout(
            total=limits.total_s,
            connect=limits.connect_s,
            first_token=limits.first_event_s,
            idle=limits.stall_s,
        ),
    }
    if wire.ignore_eos:
        options["ignore_eos"] = True
    turns = (*planned.history, planned.prompt)
    if planned.route == "chat":
        messages = [
            {"role": "user" if place % 2 == 0 else "assistant", "content": text}
            for place, text in enumerate(turns)
        ]
        return client.chat.stream(messages, **options)
    return client.stream("\n".join(turns), **options)


async def _read_whole(stream: lorry.TokenStream, patience_s: float | None) -> None:
    """To the end, or until the user's patience is at its own."""
    try:
        async with asyncio.timeout(patience_s), stream:
            async for _ in stream:
                pass
    finally:
        await stream.aclose()


def _events_of(tokens: Any) -> list[tuple[int, int]]:
    """Stamps with their numbers of tokens: those of one read count as one event."""
    return [(stamp, sum(1 for _ in same)) for stamp, same in groupby(tokens, key=lambda t: t.t_ns)]


def _as_dict(server: Any) -> dict[str, Any]:
    return {name: getattr(server, name) for name in server.__struct_fields__}


def _outcome_of(error: lorry.ClientError) -> Outcome:
    """The class of failure that our own transport would have given it."""
    match error:
        case lorry.ConnectError():
            return "connect"
        case lorry.DeadlineExceeded():
            phases: dict[Any, Outcome] = {"first_token": "timeout_ttft", "idle": "stalled"}
            return phases.get(error.phase, "timeout_total")
        case lorry.HTTPStatusError():
            return outcome_of_status(error.status or 0)
        case lorry.StreamProtocolError():
            return "sse_malformed"
        case lorry.ServerStreamError():
            return "sse_error_event"
    return "truncated"
