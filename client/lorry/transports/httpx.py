"""HTTP through an injected `httpx.AsyncClient` or `httpx2.AsyncClient`.

The two are one interface under two names; which one is in use is seen from the client that was
given, so neither is imported here. With their `ASGITransport`, calls stay in the process.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import ModuleType
from typing import Any

from lorry.errors import ConnectError, ConnectionLost, DeadlineExceeded
from lorry.timing import AttemptTiming
from lorry.transports.base import WireRequest


class HttpxTransport:
    """Uses a client that the caller made, configured and will close.

    `library` is the module that the client's class comes from.
    """

    def __init__(self, client: Any, *, library: ModuleType) -> None:
        # Any: two libraries with the same shape, either of which may be missing
        self._client = client
        self._library = library

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> HttpxResponse:
        limit_s = request.connect_timeout_s
        sent = self._client.build_request(
            request.method,
            request.url,
            headers=request.headers,
            content=request.body,
            timeout=(limit_s, None, None, None),  # connect, read, write, pool
            extensions={"trace": _observer(attempt)},
        )
        try:
            response = await self._client.send(sent, stream=True, follow_redirects=False)
        except self._library.ConnectTimeout as error:
            raise DeadlineExceeded(
                f"no connection to {request.url} within {limit_s:g} s",
                phase="connect",
                limit_s=limit_s or 0.0,
            ) from error
        except self._library.ConnectError as error:
            raise ConnectError(
                f"cannot connect to {request.url}: {error}", refused=_was_refused(error)
            ) from error
        except self._library.TransportError as error:
            raise _lost(error) from error
        return HttpxResponse(response, library=self._library)

    async def aclose(self) -> None:
        """Does nothing: the client is its maker's."""


class HttpxResponse:
    """A response read raw: no decoding of content, no splitting into lines."""

    def __init__(self, response: Any, *, library: ModuleType) -> None:
        self._response = response
        self._library = library
        self._pieces: AsyncIterator[bytes] = response.aiter_raw()

    @property
    def status(self) -> int:
        return int(self._response.status_code)

    @property
    def headers(self) -> Mapping[str, str]:
        headers: Mapping[str, str] = self._response.headers
        return headers

    @property
    def at_end(self) -> bool:
        """Always False: a connection is used again only when a read has found the end."""
        return False

    def read_nowait(self) -> bytes:
        """Always b"": these libraries do not tell what they hold."""
        return b""

    async def read_some(self) -> bytes:
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except self._library.TransportError as error:
            raise _lost(error) from error
        return b""

    def abort(self) -> None:
        stream = self._response.extensions.get("network_stream")
        sock = None if stream is None else stream.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):  # it is closed already, which is what was wanted
                sock.shutdown(socket.SHUT_RDWR)

    async def aclose(self) -> None:
        await self._response.aclose()


def _observer(attempt: AttemptTiming) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
    """The library's trace hook: told of every step by name."""

    async def observe(step: str, info: Mapping[str, Any]) -> None:
        if step == "connection.connect_tcp.started":
            attempt.reused_connection = False
        elif step.endswith(".send_request_headers.started"):
            attempt.connected_ns = time.perf_counter_ns()
            attempt.reused_connection = attempt.reused_connection is None

    return observe


def _lost(error: Exception) -> ConnectionLost:
    return ConnectionLost(
        f"the connection ended before the answer did ({error or type(error).__name__})"
    )


def _was_refused(error: BaseException | None) -> bool:
    """The refusal of the socket lies some causes deep, in a group if there were more addresses."""
    if error is None or isinstance(error, ConnectionRefusedError):
        return error is not None
    if isinstance(error, BaseExceptionGroup):
        return all(_was_refused(inner) for inner in error.exceptions)
    return _was_refused(error.__cause__ or error.__context__)
