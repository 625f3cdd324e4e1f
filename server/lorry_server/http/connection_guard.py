"""uvicorn's h11 protocol with limits of our own: size and time of a head, and number of peers."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lorry_server.http.chunked_connection import ChunkedConnection

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 1024


def guarded_protocol(
    *,
    max_head_bytes: int = MAX_HEAD_BYTES,
    head_timeout_s: float = HEAD_TIMEOUT_S,
    max_connections: int = MAX_CONNECTIONS,
) -> type[H11Protocol]:
    """Return a class for uvicorn's `http` option.

    A head of more than `max_head_bytes` is answered with 400. A connection has `head_timeout_s` from its first moment, or from the first byte of a later
    request, until the head is complete; single bytes win it no time. One that is too many is
    closed at once. uvicorn's own timer closes connections that are idle between requests.
    """

    class GuardedProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        # uvicorn narrows the standard library's type, and so must what overrides it
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.conn = ChunkedConnection(h11.SERVER, max_head_bytes)
            if len(self.connections) > max_connections:
                transport.abort()
                return
            self._start_head_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop_head_timer()
            elif self._head_timer is None:
                self._start_head_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_head_timer()
            super().connection_lost(exc)

        def _start_head_timer(self) -> None:
            self._head_timer = self.loop.call_later(head_timeout_s, self._end_late_head)

        def _stop_head_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _end_late_head(self) -> None:
            if self.transport.is_closing():
                return
            has_begun = bool(self.conn.trailing_data[0])
            if has_begun:
                # h11 frames the answer; there is no request yet that an application could answer.
                headers = [(b"content-length", b"0"), (b"connection", b"close")]
                for event in (h11.Response(status_code=408, headers=headers), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return GuardedProtocol
