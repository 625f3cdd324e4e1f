"""One streamed completion over a raw asyncio connection: little work for each event.

The client shares the machine's cores with the server that it measures, so it does not parse
events as they come: it notes when the first one came and reads the whole answer once at its end.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

FIRST_EVENT = b"\ndata: "
LAST_CHUNK = b"\r\n0\r\n\r\n"
NUM_LAST_EVENTS = 4  # the usage is in one of these


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """One answer. Times are seconds since the request was written."""

    ttft_s: float
    duration_s: float
    num_tokens: int

    @property
    def tpot_s(self) -> float | None:
        if self.num_tokens < 2:
            return None
        return (self.duration_s - self.ttft_s) / (self.num_tokens - 1)


class CompletionConnection(asyncio.Protocol):
    """A keep-alive connection to `base_url` that carries one request at a time."""

    def __init__(self, base_url: str) -> None:
        url = urlsplit(base_url)
        self._host, self._port = url.hostname or "127.0.0.1", url.port or 80
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[None] | None = None
        self._received = bytearray()
        self._first_event_s: float | None = None

    async def complete(self, body: dict[str, Any]) -> StreamTiming:
        """Send `body` to /v1/completions; it must ask for a stream with usage.

        Raises RuntimeError for any answer but a whole stream, with what the server said.
        """
        is_reused = self._transport is not None and not self._transport.is_closing()
        timing = await self._exchange(body)
        if timing is None and is_reused:
            timing = await self._exchange(body)  # it was closed while the request was on its way
        if timing is None:
            raise RuntimeError("the server closed the connection without an answer")
        return timing

    async def _exchange(self, body: dict[str, Any]) -> StreamTiming | None:
        """One request; None if the connection was closed before a byte of the answer."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            await loop.create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None
        encoded = json.dumps(body, separators=(",", ":")).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
            f"Content-Length: {len(encoded)}\r\n\r\n"
        )
        self._received.clear()
        self._first_event_s = None
        self._answer = loop.create_future()
        started_s = time.perf_counter()
        self._transport.write(head.encode() + encoded)
        await self._answer
        ended_s = time.perf_counter()
        if not self._received:
            return None
        num_tokens = read_answer(bytes(self._received))
        if self._first_event_s is None:
            raise RuntimeError("the answer holds no event")
        return StreamTiming(self._first_event_s - started_s, ended_s - started_s, num_tokens)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._first_event_s is None and FIRST_EVENT in self._received:
            self._first_event_s = time.perf_counter()
        if self._is_whole():
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        # Some servers end a stream by closing; whether it is whole shows when it is read.
        self._transport = None
        self._end()

    def _is_whole(self) -> bool:
        if self._received.endswith(LAST_CHUNK):
            return True
        if self._first_event_s is not None:
            return False
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = _headers(bytes(head)).get("content-length")
        return bool(separator) and length is not None and len(body) >= int(length)

    def _end(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)


def read_answer(received: bytes) -> int:
    """Return the completion tokens that the answer's usage counts."""
    head, _, body = received.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
    if _headers(head).get("transfer-encoding") == "chunked":
        body = _dechunk(body)
    if status != [b"200"]:
        raise RuntimeError(f"the server answered {head[:40]!r}: {body[:400]!r}")
    events = [line[6:].strip() for line in body.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        raise RuntimeError(f"the stream has no end: {body[-400:]!r}")
    for event in reversed(events[-NUM_LAST_EVENTS:-1]):
        message = json.loads(event)
        if "error" in message:
            raise RuntimeError(f"the stream ended with {event!r}")
        if message.get("usage"):
            return int(message["usage"]["completion_tokens"])
    raise RuntimeError(f"no usage in the last events: {body[-400:]!r}")


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip().lower() for name, _, value in pairs}


def _dechunk(body: bytes) -> bytes:
    parts, offset = [], 0
    while offset < len(body):
        end = body.find(b"\r\n", offset)
        size = int(body[offset:end].split(b";")[0], 16) if end > offset else 0
        if size == 0:
            break
        parts.append(body[end + 2 : end + 2 + size])
        offset = end + 2 + size + 2
    return b"".join(parts)
