"""Plays one answer of the mock server: pieces of bytes, each at a time that was fixed beforehand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorry_loadtest.mock_events import (
    BASE_MODEL,
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Asked,
    event,
    finish_event,
    last_lorax_event,
    role_event,
    token_event,
    usage_event,
)
from lorry_loadtest.mock_faults import Fault

COALESCED_EVENTS = 4
TEMPLATE_TOKENS = 200


@dataclass(frozen=True, slots=True)
class MockTimes:
    """Milliseconds to the first token and between tokens, and how other streams stretch them.

    Token j is due `first_ms + j * gap_ms` after the request was read; that is an absolute time, so
    one late token does not delay the next. The fault `stall` adds `stall_ms`.
    """

    first_ms: float = 50.0
    gap_ms: float = 10.0
    slowdown: float = 0.0
    tokens_per_event: int = 1
    stall_ms: float = 500.0


@dataclass(slots=True)
class ServedRequest:
    """What the server saw of one request, and when it wrote each token-bearing event, on the
    monotonic clock (`perf_counter_ns`)."""

    body: dict[str, Any]
    received_ns: int
    request_id: str = ""
    sent_ns: list[int] = field(default_factory=list)
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Written at `due_ns`. `num_events` events in it bear `num_tokens` tokens."""

    due_ns: int
    data: bytes
    num_events: int = 0
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """All pieces of an answer in the order of their times, whether they are all of it, and whether
    the connection stays."""

    pieces: Sequence[Piece]
    is_whole: bool = True
    keeps_alive: bool = True


def compose(
    asked: Asked,
    *,
    times: MockTimes,
    received_ns: int,
    stretch: float,
    num_open: int,
    other_model: str,
    fault: Fault | None,
) -> Score:
    """What is sent and when. `other_model` is whose text a wrong adapter has."""
    model = other_model if fault == "wrong_adapter" else asked.model
    num_tokens = asked.max_tokens
    half = max(1, num_tokens // 2)
    head = STREAM_HEAD % asked.request_id.encode("latin-1", "replace")
    pieces = [Piece(received_ns, head)]
    if fault == "role_chunk":
        pieces.append(Piece(received_ns, role_event(asked)))
    if fault == "early_text":
        early = token_event(asked, num_tokens, 1, model=model, is_last=False)
        pieces.append(Piece(received_ns, early, 1, 1))
    timings = _timings(asked, times, num_tokens=num_tokens, stretch=stretch, num_open=num_open)
    told = num_tokens + (fault in ("wrong_usage", "early_text"))
    step = 1 if asked.is_lorax else times.tokens_per_event
    sent = 0
    due_ns = received_ns
    while sent < num_tokens:
        count = min(step, num_tokens - sent)
        due_ms = stretch * (times.first_ms + (sent + count - 1) * times.gap_ms)
        if fault == "stall" and sent >= half:
            due_ms += times.stall_ms
        due_ns = received_ns + round(due_ms * 1e6)
        if fault in ("error_event", "cut", "no_done", "garbage", "short") and sent >= half:
            is_whole = fault != "cut"
            broken = _broken(asked, due_ns, sent, timings, fault)
            return Score([*pieces, *broken], is_whole=is_whole, keeps_alive=is_whole)
        is_last = sent + count == num_tokens
        if asked.is_lorax and is_last:
            data = last_lorax_event(asked, sent, model=model, num_tokens=told, timings=timings)
        else:
            data = token_event(asked, sent, count, model=model, is_last=is_last)
        pieces.append(Piece(due_ns, data, 1, count))
        sent += count
    end = LAST_CHUNK
    if not asked.is_lorax:
        usage = usage_event(
            asked,
            told,
            num_cached=asked.num_prompt_tokens // 2 if fault == "cached" else 0,
            num_template=TEMPLATE_TOKENS if fault == "long_template" else 0,
            timings=timings,
        )
        end = usage + event(DONE) + LAST_CHUNK
    pieces.append(Piece(due_ns, end))
    return Score(_together(pieces, fault), keeps_alive=fault != "closing")


def _broken(
    asked: Asked, due_ns: int, sent: int, timings: dict[str, Any], fault: Fault
) -> list[Piece]:
    match fault:
        case "error_event":
            data = event({"error": {"message": "asked to fail", "type": "internal"}}) + LAST_CHUNK
        case "garbage":
            data = event(b"{not json") + LAST_CHUNK
        case "no_done":
            data = finish_event(asked, "length") + LAST_CHUNK
        case "short":
            data = finish_event(asked, "stop")
            data += usage_event(asked, sent, timings=timings) + event(DONE)
            data += LAST_CHUNK
        case _:
            data = b""
    return [Piece(due_ns, data)]


def _together(pieces: list[Piece], fault: Fault | None) -> list[Piece]:
    """As they are, or several in one write."""
    if fault == "buffered":
        return [_joined(pieces)]
    if fault == "coalesced":
        first, *rest = pieces
        size = COALESCED_EVENTS
        return [first, *(_joined(rest[k : k + size]) for k in range(0, len(rest), size))]
    return pieces


def _joined(pieces: list[Piece]) -> Piece:
    return Piece(
        pieces[-1].due_ns,
        b"".join(piece.data for piece in pieces),
        sum(piece.num_events for piece in pieces),
        sum(piece.num_tokens for piece in pieces),
    )


def _timings(
    asked: Asked, times: MockTimes, *, num_tokens: int, stretch: float, num_open: int
) -> dict[str, Any]:
    """Of lorry's shape; nothing is loaded, and nothing is left to do after the last token."""
    decode_ms = stretch * times.gap_ms * (num_tokens - 1)
    return {
        "request_id": asked.request_id,
        "adapter": None if asked.model == BASE_MODEL else asked.model,
        "queue_ms": (stretch - 1) * times.first_ms,
        "prefill_ms": times.first_ms,
        "decode_ms": decode_ms,
        "cached_tokens": 0,
        "steps": num_tokens,
        "max_batch": num_open,
        "preemptions": 0,
        "adapter_load_ms": 0.0,
        "prepare_ms": 0.0,
        "finish_ms": 0.0,
        "total_ms": stretch * times.first_ms + decode_ms,
    }


class Player:
    """Writes a score with one timer after the other, and calls `on_end` when all is written."""

    def __init__(
        self,
        score: Score,
        *,
        served: ServedRequest,
        transport: asyncio.Transport,
        on_end: Callable[[Score], None],
    ) -> None:
        self._score = score
        self._served = served
        self._transport = transport
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def play(self) -> None:
        """Writes what is due, and comes back for the rest."""
        pieces = self._score.pieces
        while self._next < len(pieces):
            piece = pieces[self._next]
            wait_ns = piece.due_ns - time.perf_counter_ns()
            if wait_ns > 0:
                self._timer = self._loop.call_later(wait_ns / 1e9, self.play)
                return
            self._next += 1
            if piece.num_events:
                self._served.sent_ns.extend([time.perf_counter_ns()] * piece.num_events)
                self._served.num_tokens += piece.num_tokens
            self._transport.write(piece.data)
        self._on_end(self._score)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
