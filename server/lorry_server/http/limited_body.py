"""`LimitedBody`: a request's body up to a limit, and what is done with the rest of one refused.

A connection that is closed while its client still sends is reset, and a reset can take the answer
with it: the client would see a broken connection, and send its body again, where it should read why
it was refused. So what it still sends is read and thrown away first, as far as that is little.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive, Send

from lorry_server.errors import RequestError

MAX_DISCARDED_BYTES = 64 * 1024 * 1024
MAX_DISCARDING_S = 30.0
MAX_SILENCE_S = 1.0
REFUSALS = frozenset({413, 415, 431})  # which may come before the body has been read


class LimitedBody:
    """Passes on what a client sends until it is more than `max_bytes`."""

    def __init__(self, receive: Receive, send: Send, *, max_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._is_read = False  # to its end
        self._is_refused = False

    async def receive(self) -> Message:
        """Raises `RequestError` beyond the limit."""
        message = await self._receive_any()
        if self._num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        return message

    async def send(self, message: Message) -> None:
        """Send the answer; if it refuses the body, end it when the body has been thrown away."""
        if message["type"] == "http.response.start":
            self._is_refused = message["status"] in REFUSALS
        elif self._is_refused and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._discard()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _receive_any(self) -> Message:
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        self._is_read = not message.get("more_body", False)
        return message

    async def _discard(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_DISCARDING_S):
                while not self._is_read and self._num_bytes <= MAX_DISCARDED_BYTES:
                    async with asyncio.timeout(MAX_SILENCE_S):
                        await self._receive_any()


def too_large(max_bytes: int) -> RequestError:
    return RequestError(
        f"a body may have at most {max_bytes} bytes", code="body_too_large", status=413
    )
