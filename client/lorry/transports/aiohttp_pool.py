"""Requests over aiohttp's connections: taken from its pool, written in one piece, parsed by it.

aiohttp's session does for every request what few need: redirects, cookies, proxies, traces, bodies of
all kinds, each with objects of its own. That takes longer than all else in a call, and what a call
holds while it waits is what Python's collector goes through again and again. So only the parts below
a session are used: connector, protocol and parser.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from yarl import URL

from lorry.errors import ConfigError
from lorry.timing import AttemptTiming
from lorry.transports.aiohttp_body import write_in_pieces
from lorry.transports.aiohttp_errors import connected_too_late, lost, not_connected, unreadable
from lorry.transports.aiohttp_response import AiohttpResponse
from lorry.transports.base import ConnectionCounts, WireRequest

READ_BUFFER_BYTES = 2**20
# below uvicorn's 5 s, so that the client drops an idle connection before the server does
KEEPALIVE_S = 4.0
DNS_CACHE_S = 10
# a longer body is not copied behind its head, and is written as fast as the server takes it
MAX_JOINED_BODY_BYTES = 2**16
MAX_KEPT_TARGETS = 256
SWITCHING_PROTOCOLS = 101
# RFC 9110, 8.6: a request without a body has no length where its method has no use for a body
_METHODS_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "DELETE"})


class _Target(NamedTuple):
    """What requests to one URL have in common."""

    place: aiohttp.ClientRequest  # never sent; aiohttp's connector takes addresses in this form
    request_line: str
    host_line: str


class Pool:
    """One event loop's connections: as many as requests are in flight, kept for those that follow.

    Made and used inside of the loop.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=0,
            keepalive_timeout=KEEPALIVE_S,
            ttl_dns_cache=DNS_CACHE_S,
            ssl=ssl_context or True,
        )
        self._targets: dict[tuple[str, str], _Target] = {}
        self._used: WeakSet[ResponseHandler] = WeakSet()
        # with its response, from the headers on
        self._in_use: dict[Connection, PooledResponse | None] = {}

    @property
    def num_in_use(self) -> int:
        return len(self._in_use)

    async def send(self, request: WireRequest, attempt: AttemptTiming) -> PooledResponse:
        """As `Transport.send`."""
        target = self._target(request)
        head = _head(target, request)
        connection = await self._connect(target.place, request, attempt)
        try:
            protocol = _write(connection, request, head)
            while True:
                message, content = await protocol.read()
                if message.code >= 200:
                    break
                if message.code == SWITCHING_PROTOCOLS:  # unasked, and HTTP no more
                    protocol.set_exception(_closed())
                    break
        except (aiohttp.ClientError, OSError) as error:
            self.close(connection)
            raise lost(error) from error
        except HttpProcessingError as error:
            self.close(connection)
            raise unreadable(error) from error
        except BaseException:
            self.close(connection)
            raise
        response = PooledResponse(self, connection, message.code, message.headers, content)
        self._in_use[connection] = response
        content.on_eof(response.came_whole)
        return response

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next request, unless its own was answered before it was sent."""
        transport = connection.transport
        if transport is not None and transport.get_write_buffer_size():
            self.close(connection)
        else:
            del self._in_use[connection]
            connection.release()

    def close(self, connection: Connection) -> None:
        """Close it now; what is still to be sent is not waited for."""
        del self._in_use[connection]
        transport = connection.transport
        with contextlib.suppress(RuntimeError):  # the loop has gone, and its sockets with it
            if transport is not None:
                transport.abort()
            connection.close()

    def count(self) -> ConnectionCounts:
        num_open = sum(protocol.is_connected() for protocol in self._used)
        return ConnectionCounts(num_open, max(0, num_open - self.num_in_use))

    async def aclose(self) -> None:
        """Close all connections. Who waits for an answer, or would read on in one, gets ConnectionLost.

        A request that is still connecting fails when it is connected, or when its time for that ends.
        """
        for _ in range(2):  # an answer that has just begun is a response in the loop's next turn
            for connection, response in list(self._in_use.items()):
                if response is not None:
                    response.abort()
                elif connection.protocol is not None:
                    connection.protocol.set_exception(_closed())  # `send` closes it
            await asyncio.sleep(0)
        await self._connector.close()

    async def _connect(
        self, place: aiohttp.ClientRequest, request: WireRequest, attempt: AttemptTiming
    ) -> Connection:
        timeout = _timeout(request.connect_timeout_s)
        try:
            connection = await self._connector.connect(place, [], timeout)
            while _has_unasked_answer(connection):
                connection.close()
                connection = await self._connector.connect(place, [], timeout)
        except TimeoutError as error:
            raise connected_too_late(request.url, request.connect_timeout_s) from error
        except (aiohttp.ClientError, OSError) as error:
            raise not_connected(request.url, error) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._connector.closed and task is not None and not task.cancelling():
                # it is how a connector that is closed ends the look-ups of names
                raise not_connected(request.url, _closed()) from error
            raise
        self._in_use[connection] = None
        attempt.connected_ns = time.perf_counter_ns()
        attempt.reused_connection = was_used = connection.protocol in self._used
        if not was_used and connection.protocol is not None:
            self._used.add(connection.protocol)
        return connection

    def _target(self, request: WireRequest) -> _Target:
        key = request.method, request.url
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) >= MAX_KEPT_TARGETS:
                self._targets.clear()
            target = self._targets[key] = _new_target(*key)
        return target


class PooledResponse(AiohttpResponse):
    """A response that gives its connection back to the pool when it has come whole."""

    __slots__ = ("_connection", "_pool")

    def __init__(
        self,
        pool: Pool,
        connection: Connection,
        status: int,
        headers: Mapping[str, str],
        content: aiohttp.StreamReader,
    ) -> None:
        super().__init__(status, headers, content)
        self._pool = pool
        self._connection: Connection | None = connection

    def abort(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._pool.close(connection)
        if self._content.exception() is None:
            # wakes whoever waits in a read, which a connection that is given up does not
            self._content.set_exception(_closed())

    def came_whole(self) -> None:
        """The body has come to its end, and the connection is free for others."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)


def _write(connection: Connection, request: WireRequest, head: bytes) -> ResponseHandler:
    """Send a request; what is returned reads its answer."""
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None:
        raise aiohttp.ClientConnectionResetError("it was closed at once")
    protocol.set_response_params(
        skip_payload=request.method == "HEAD",
        read_until_eof=True,
        auto_decompress=False,
        read_bufsize=READ_BUFFER_BYTES,
    )
    body = request.body
    if body is None:
        transport.write(head)
    elif len(body) <= MAX_JOINED_BODY_BYTES:
        transport.write(head + body)
    else:
        transport.write(head)
        write_in_pieces(connection, protocol, body)
    return protocol


def _new_target(method: str, url: str) -> _Target:
    try:
        parts = URL(url)
        if parts.user is not None or parts.password is not None:
            raise ConfigError("the URL of a request has a user name or password; use a header")
        place = aiohttp.ClientRequest(method, parts, loop=asyncio.get_running_loop())
        if parts.scheme not in ("http", "https"):
            raise ValueError("its scheme is not http or https")
        (parts.raw_host or "").encode("idna")  # as the look-up of the name does
    except aiohttp.InvalidURL as error:
        raise not_connected(url, error) from error
    except ValueError as error:
        raise ConfigError(f"{method!r} {url!r} is no request that can be sent: {error}") from error
    return _Target(
        place,
        request_line=f"{place.method} {place.url.raw_path_qs} HTTP/1.1\r\n",
        host_line=f"host: {place.headers['host']}\r\n",
    )


def _head(target: _Target, request: WireRequest) -> bytes:
    headers, body = request.headers, request.body
    lines = [target.request_line]
    if "host" not in headers:
        lines.append(target.host_line)
    for name, value in headers.items():
        lines.append(f"{name}: {value}\r\n")
    if body is not None:
        lines.append(f"content-length: {len(body)}\r\n")
    elif target.place.method not in _METHODS_WITHOUT_BODY:
        lines.append("content-length: 0\r\n")
    lines.append("\r\n")
    head = "".join(lines)
    if not head.count("\n") == head.count("\r") == len(lines) or "\0" in head:
        raise ConfigError("a header has a line end or a NUL in it, which cannot be sent")
    try:
        return head.encode()
    except UnicodeEncodeError:  # which holds the head, and a key with it
        raise ConfigError("a header has a character that cannot be sent") from None


def _closed() -> aiohttp.ClientConnectionError:
    return aiohttp.ClientConnectionError("it was closed")


def _has_unasked_answer(connection: Connection) -> bool:
    """Something came while it was idle, such as 408: not to be taken for the next request's answer."""
    return connection.protocol is not None and len(connection.protocol) > 0


@lru_cache(maxsize=64)
def _timeout(connect_timeout_s: float | None) -> aiohttp.ClientTimeout:
    """All other limits are the caller's to keep."""
    return aiohttp.ClientTimeout(
        total=None, connect=connect_timeout_s, sock_connect=None, sock_read=None
    )
