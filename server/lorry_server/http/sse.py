"""`EventStreamResponse`: server-sent events that end their generation on every way out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lorry_server.errors import LorryServerError
from lorry_server.http.disconnect import disconnected
from lorry_server.http.errors import wire_error
from lorry_server.http.generation import Delta, Generation
from lorry_server.http.json_response import encode_json
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.settings import HttpSettings

logger = structlog.get_logger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def event(message: Any) -> bytes:
    """Encode one event. There is never an `id:` or `retry:` line: some clients fail on them."""
    return b"data: " + encode_json(message) + b"\n\n"


def openai_error_event(exc: Exception) -> bytes:
    return event(wire_error(exc).openai_body())


def lorax_error_event(exc: Exception) -> bytes:
    return event(wire_error(exc).lorax_body())


class EventWriter(Protocol):
    """Writes the events of one answer. Each call returns any number of whole ones, also none."""

    def begin(self) -> bytes:
        """Return what can be said before the first token."""
        ...

    def write(self, delta: Delta) -> bytes: ...

    def end(self) -> bytes:
        """Return what is left when every sequence has ended."""
        ...


class EventStreamResponse(Response):
    """Sends what `events` makes of `generation`, which it closes however it ends.

    It ends when the events do, when the client leaves, and when the client takes nothing for
    `stall_timeout_s`: then its connection is closed in the middle, so that it cannot be mistaken
    for the end of an answer. A failure becomes one last event, made by `error_event`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: EventWriter,
        *,
        generation: Generation,
        error_event: Callable[[Exception], bytes],
        record: RequestRecord,
        settings: HttpSettings,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(
            {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
        )
        self._events = events
        self._generation = generation
        self._error_event = error_event
        self._record = record
        self._settings = settings
        self._is_writing = False
        self._since_s = 0.0  # when it began to write, or when it last had written

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.body = b""
        super().init_headers(headers)
        # The length of a stream is not known; the empty body's must not be sent.
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._generation:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            self._since_s = time.perf_counter()
            sending = asyncio.ensure_future(self._send_events(send))
            others = (
                asyncio.ensure_future(disconnected(receive)),
                asyncio.ensure_future(self._keep_alive(send)),
            )
            try:
                await asyncio.wait((sending, *others), return_when=asyncio.FIRST_COMPLETED)
                self._record.is_abandoned = not sending.done()
                if sending.done():
                    sending.result()
            finally:
                for task in (sending, *others):
                    task.cancel()
                await asyncio.gather(sending, *others, return_exceptions=True)

    async def _send_events(self, send: Send) -> None:
        events = self._events
        try:
            if opening := events.begin():
                await self._write(send, opening)
            async for deltas in self._generation:
                if chunk := b"".join([events.write(delta) for delta in deltas]):
                    await self._write(send, chunk)
            last = events.end()
        except LorryServerError as exc:
            self._record.error = str(exc)
            last = self._error_event(exc)
        except Exception as exc:
            # The headers are out: nothing above this frame could still tell the client.
            logger.exception("stream failed", request_id=self._record.request_id)
            self._record.error = type(exc).__name__
            last = self._error_event(exc)
        await self._write(send, last, is_last=True)

    async def _write(self, send: Send, chunk: bytes, *, is_last: bool = False) -> None:
        self._is_writing, self._since_s = True, time.perf_counter()
        await send({"type": "http.response.body", "body": chunk, "more_body": not is_last})
        self._is_writing, self._since_s = False, time.perf_counter()

    async def _keep_alive(self, send: Send) -> None:
        """Fill silences with comments; return when the reader has taken nothing for too long."""
        keep_alive_s = self._settings.keep_alive_s
        stall_timeout_s = self._settings.stall_timeout_s
        while True:
            limit_s = stall_timeout_s if self._is_writing else keep_alive_s
            age_s = time.perf_counter() - self._since_s
            if age_s < limit_s:
                # A write may begin meanwhile: look again in time to see it stall.
                await asyncio.sleep(min(limit_s - age_s, stall_timeout_s))
            elif self._is_writing or not await self._write_comment(send):
                logger.warning("stalled stream cut", request_id=self._record.request_id)
                return

    async def _write_comment(self, send: Send) -> bool:
        """Return whether the reader took it in time."""
        try:
            async with asyncio.timeout(self._settings.stall_timeout_s):
                await self._write(send, KEEP_ALIVE)
        except TimeoutError:
            return False
        return True
