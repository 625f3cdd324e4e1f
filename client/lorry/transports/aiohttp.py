"""HTTP through aiohttp: the default transport, and one for an injected `aiohttp.ClientSession`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import time
import weakref
from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp

from lorry.errors import ConnectError, ConnectionLost, DeadlineExceeded
from lorry.timing import AttemptTiming
from lorry.transports.base import ConnectionCounts, WireRequest
from lorry.transports.connect_error import connect_error

if TYPE_CHECKING:
    from aiohttp.client import ClientTimeout
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

READ_BUFFER_BYTES = 2**20
# below uvicorn's 5 s, so that the client drops an idle connection before the server does
KEEPALIVE_S = 4.0
DNS_CACHE_S = 10
# aiohttp warns when a larger body is given as bytes, and sends a file piece by piece
MAX_PLAIN_BODY_BYTES = 2**20


class AiohttpTransport:
    """One session per event loop, made at the first request and closed with its loop.

    Nothing is limited here: as many connections are opened as requests are in flight.
    """

    def __init__(self) -> None:
        self._sessions: dict[asyncio.AbstractEventLoop, AsyncGenerator[aiohttp.ClientSession]] = {}
        self._current: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> AiohttpResponse:
        session = self._current.get(asyncio.get_running_loop())
        if session is None:
            session = await self._open_session()
        return await _send(session, request, attempt)

    def count_connections(self) -> ConnectionCounts:
        try:
            session = self._current.get(asyncio.get_running_loop())
        except RuntimeError:
            session = None
        connector = None if session is None else session.connector
        if isinstance(connector, _Connector):
            return connector.count()
        return ConnectionCounts(0, 0)

    async def aclose(self) -> None:
        keeper = self._sessions.get(asyncio.get_running_loop())
        if keeper is not None:
            await keeper.aclose()

    async def _open_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        for other in list(self._sessions):
            if other.is_closed():  # without having shut its generators down
                del self._sessions[other], self._current[other]
        keeper = self._keep_session(loop)
        self._sessions[loop] = keeper
        return await anext(keeper)

    async def _keep_session(
        self, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[aiohttp.ClientSession]:
        """Hold a session open until `aclose`, or until the loop shuts its generators down.

        That shutdown, which `asyncio.run` performs, is the one moment at which a library is told
        that a loop ends; so a client that nobody closed leaves no open session behind.
        """
        session = _new_session()
        self._current[loop] = session
        try:
            yield session
        finally:
            del self._current[loop], self._sessions[loop]
            await session.close()


class AiohttpSessionTransport:
    """Uses a session that the caller made, configured and will close."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> AiohttpResponse:
        # a session without our trace does not say when it connected
        attempt.connected_ns = attempt.sent_ns
        return await _send(self._session, request, attempt)

    async def aclose(self) -> None:
        """Does nothing: the session is its maker's."""


class AiohttpResponse:
    """A response whose body is read in whatever pieces the socket gave."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    def read_nowait(self) -> bytes:
        try:
            return self._response.content.read_nowait()
        except (aiohttp.ClientError, OSError) as error:
            _raise_lost(error)

    async def read_some(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            _raise_lost(error)

    def abort(self) -> None:
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()  # what is still to be sent is not waited for
        self._response.close()

    async def aclose(self) -> None:
        if not self._response.content.at_eof():
            self.abort()
            # the loop closes an aborted socket in its next turn
            await asyncio.sleep(0)


class _Sending:
    """One request on its way: where its times go, and the connection that it got."""

    __slots__ = ("attempt", "is_on_new_connection", "transport")

    def __init__(self, attempt: AttemptTiming) -> None:
        self.attempt = attempt
        self.is_on_new_connection = False
        self.transport: asyncio.Transport | None = None


_SENDING: ContextVar[_Sending | None] = ContextVar("lorry_sending", default=None)


class _Connector(aiohttp.TCPConnector):
    """Says when a request got its connection, and counts connections.

    aiohttp's tracing says the same, at a third of the cost of a whole request.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._made: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()
        self._num_in_use = 0

    async def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        self._num_in_use += 1
        connection.add_callback(self._released)
        sending = _SENDING.get()
        if sending is not None:
            sending.transport = connection.transport
            sending.attempt.connected_ns = time.perf_counter_ns()
            sending.attempt.reused_connection = not sending.is_on_new_connection
        return connection

    def count(self) -> ConnectionCounts:
        num_open = sum(protocol.is_connected() for protocol in self._made)
        return ConnectionCounts(num_open, max(0, num_open - self._num_in_use))

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> ResponseHandler:
        protocol = await super()._create_connection(req, traces, timeout)
        self._made.add(protocol)
        sending = _SENDING.get()
        if sending is not None:
            sending.is_on_new_connection = True
        return protocol

    def _released(self) -> None:
        self._num_in_use -= 1


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_Connector(
            limit=0,
            limit_per_host=0,
            keepalive_timeout=KEEPALIVE_S,
            ttl_dns_cache=DNS_CACHE_S,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER_BYTES,
        auto_decompress=False,
    )


@functools.lru_cache(maxsize=64)
def _time_limits(connect_s: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s)


async def _send(
    session: aiohttp.ClientSession, request: WireRequest, attempt: AttemptTiming
) -> AiohttpResponse:
    body = request.body
    is_large = body is not None and len(body) > MAX_PLAIN_BODY_BYTES
    sending = _Sending(attempt)
    _SENDING.set(sending)
    try:
        response = await session.request(
            request.method,
            request.url,
            data=io.BytesIO(body or b"") if is_large else body,
            headers=request.headers,
            allow_redirects=False,
            raise_for_status=False,
            timeout=_time_limits(request.connect_timeout_s),
        )
    except aiohttp.ServerTimeoutError as error:
        limit_s = request.connect_timeout_s or 0.0
        raise DeadlineExceeded(
            f"no connection to {request.url} within {limit_s:g} s", phase="connect", limit_s=limit_s
        ) from error
    except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
        raise _connect_error(request.url, error) from error
    except (aiohttp.ClientError, OSError) as error:
        _raise_lost(error)
    except BaseException:
        # aiohttp closes the connection once what is still to be sent of the body was sent
        if sending.transport is not None:
            with contextlib.suppress(RuntimeError):  # the loop has gone, and its sockets with it
                sending.transport.abort()
        raise
    finally:
        _SENDING.set(None)
    return AiohttpResponse(response)


def _connect_error(url: str, error: Exception) -> ConnectError:
    return connect_error(
        url,
        getattr(error, "os_error", error),
        is_name_unknown=isinstance(error, aiohttp.ClientConnectorDNSError),
    )


def _raise_lost(error: Exception) -> NoReturn:
    raise ConnectionLost(
        f"the connection ended before the answer did ({error or type(error).__name__})"
    ) from error
