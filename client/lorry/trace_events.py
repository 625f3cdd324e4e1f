"""Calls as a trace that Perfetto and chrome://tracing show: the Trace Event Format, JSON object form.

Format: "Trace Event Format", Google, 2016; complete ("X"), instant ("i") and metadata ("M") events.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, TypeAlias

from lorry.errors import ClientError
from lorry.generation import Generation
from lorry.timing import Timing
from lorry.waterfall import Span, spans

_CLIENT, _SERVER = 1, 2

Traced: TypeAlias = "Generation | ClientError | Timing"


def chrome_trace(calls: Iterable[Traced]) -> dict[str, Any]:
    """A trace of calls on one clock, to be written with `json.dump`.

    Client and server are the two processes; calls that overlap lie on lanes (threads) of their own,
    the same in both. Times are microseconds from the first call. There is no prompt and no text in
    it. Calls of several machines or processes have several clocks and do not belong in one trace.
    Raises ValueError when none of the calls has a span.
    """
    parts = [(call, found) for call in calls if (found := _spans(call))]
    if not parts:
        raise ValueError("none of the calls was sent; there is nothing to draw")
    parts.sort(key=lambda pair: pair[1][0].start_ns)
    zero_ns = parts[0][1][0].start_ns
    events: list[dict[str, Any]] = []
    lanes: list[tuple[int, int]] = []  # (free from, lane)
    num_lanes = 0
    for call, found in parts:
        if lanes and lanes[0][0] <= found[0].start_ns:
            _, lane = heapq.heappop(lanes)
        else:
            num_lanes += 1
            lane = num_lanes
        heapq.heappush(lanes, (found[-1].end_ns, lane))
        events += _events(call, found, lane=lane, zero_ns=zero_ns)
    return {"traceEvents": [*_names(num_lanes), *events], "displayTimeUnit": "ms"}


def _spans(call: Traced) -> list[Span]:
    timing = _timing(call)
    return [] if timing is None else spans(timing)


def _timing(call: Traced) -> Timing | None:
    return call if isinstance(call, Timing) else call.timing


def _events(
    call: Traced, found: list[Span], *, lane: int, zero_ns: int
) -> Iterable[dict[str, Any]]:
    start_ns, end_ns = found[0].start_ns, found[-1].end_ns
    yield {
        "name": _title(call),
        "cat": "call",
        "ph": "X",
        "ts": (start_ns - zero_ns) / 1e3,
        "dur": (end_ns - start_ns) / 1e3,
        "pid": _CLIENT,
        "tid": lane,
        "args": _arguments(call),
    }
    for span in found:
        yield {
            "name": span.name,
            "cat": "server" if span.is_servers else "client",
            "ph": "X",
            "ts": (span.start_ns - zero_ns) / 1e3,
            "dur": span.duration_ns / 1e3,
            "pid": _SERVER if span.is_servers else _CLIENT,
            "tid": lane,
        }
    timing = _timing(call)
    if timing is not None and timing.first_token_ns is not None:
        yield {
            "name": "first token",
            "cat": "client",
            "ph": "i",
            "s": "t",
            "ts": (timing.first_token_ns - zero_ns) / 1e3,
            "pid": _CLIENT,
            "tid": lane,
        }


def _title(call: Traced) -> str:
    if isinstance(call, Timing):
        return "call"
    name = call.adapter or "base"
    return f"{name}: {type(call).__name__}" if isinstance(call, ClientError) else name


def _arguments(call: Traced) -> dict[str, Any]:
    timing = _timing(call)
    arguments: dict[str, Any] = {}
    if timing is not None:
        arguments["num_tokens"] = timing.num_tokens
        arguments["attempts"] = len(timing.attempts)
    if not isinstance(call, Timing):
        arguments["request_id"] = call.request_id
        arguments["endpoint"] = call.endpoint
        arguments["adapter"] = call.adapter
    if isinstance(call, Generation):
        arguments["finish_reason"] = call.finish_reason
    return {name: value for name, value in arguments.items() if value is not None}


def _names(num_lanes: int) -> Iterable[dict[str, Any]]:
    for process, name in ((_CLIENT, "client"), (_SERVER, "server")):
        yield {"name": "process_name", "ph": "M", "pid": process, "tid": 0, "args": {"name": name}}
        for lane in range(1, num_lanes + 1):
            yield {
                "name": "thread_name",
                "ph": "M",
                "pid": process,
                "tid": lane,
                "args": {"name": f"lane {lane}"},
            }
