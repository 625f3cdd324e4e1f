"""HTTP through aiohttp: the default transport, and one for an injected `aiohttp.ClientSession`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NoReturn
from weakref import WeakSet

import aiohttp
import msgspec

from lorry.errors import ConnectError, ConnectionLost, DeadlineExceeded
from lorry.timing import AttemptTiming
from lorry.transports.base import ConnectionCounts, WireRequest
from lorry.transports.connect_error import connect_error

READ_BUFFER_BYTES = 2**20
# below uvicorn's 5 s, so that the client drops an idle connection before the server does
KEEPALIVE_S = 4.0
DNS_CACHE_S = 10
# aiohttp warns when a larger body is given as bytes, and sends a file piece by piece
MAX_PLAIN_BODY_BYTES = 2**20


class _Sending(msgspec.Struct):
    """An attempt on its way, and the connection that it was given."""

    attempt: AttemptTiming
    socket: asyncio.Transport | None = None
    pool: _StampingConnector | None = None

    def leave_pool(self) -> None:
        """The connection is not in use any more, whatever becomes of it."""
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.num_in_use -= 1


# what a task is sending, for the connector, to which aiohttp passes no word of ours
_SENDING: ContextVar[_Sending | None] = ContextVar("sending", default=None)


class AiohttpTransport:
    """One session per event loop, made at the first request and closed with its loop.

    Nothing is limited here: as many connections are opened as requests are in flight. The proxies
    of the environment and the keys of `~/.netrc` are used only with `trust_env`. Sessions share one
    TLS context, which aiohttp makes when it is imported.
    """

    def __init__(self, *, trust_env: bool = False) -> None:
        self._trust_env = trust_env
        self._sessions: dict[asyncio.AbstractEventLoop, AsyncGenerator[aiohttp.ClientSession]] = {}
        self._current: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    def send(
        self, request: WireRequest, *, attempt: AttemptTiming
    ) -> Coroutine[Any, Any, AiohttpResponse]:
        session = self._current.get(asyncio.get_running_loop())
        if session is None:
            return self._send_first(request, attempt)
        return _send(session, request, attempt)

    def count_connections(self) -> ConnectionCounts:
        try:
            session = self._current.get(asyncio.get_running_loop())
        except RuntimeError:  # no loop is running
            session = None
        connector = None if session is None else session.connector
        if isinstance(connector, _StampingConnector):
            return connector.count()
        return ConnectionCounts(0, 0)

    async def aclose(self) -> None:
        keeper = self._sessions.get(asyncio.get_running_loop())
        if keeper is not None:
            await keeper.aclose()

    async def _send_first(self, request: WireRequest, attempt: AttemptTiming) -> AiohttpResponse:
        return await _send(await self._open_session(), request, attempt)

    async def _open_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        for other in list(self._sessions):
            if other.is_closed():  # without having shut its generators down
                # another thread may be doing the same
                self._sessions.pop(other, None)
                self._current.pop(other, None)
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
        session = _new_session(trust_env=self._trust_env)
        self._current[loop] = session
        try:
            yield session
        finally:
            self._current.pop(loop, None)
            self._sessions.pop(loop, None)
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

    __slots__ = ("_response", "_sending")

    def __init__(self, response: aiohttp.ClientResponse, sending: _Sending) -> None:
        self._response = response
        self._sending = sending

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def at_end(self) -> bool:
        return self._response.content.at_eof()

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
        self._sending.leave_pool()
        if not self._response.content.at_eof():
            self.abort()
            # the loop closes an aborted socket in its next turn
            await asyncio.sleep(0)


class _StampingConnector(aiohttp.TCPConnector):
    """Notes on the attempt that is being made when it had its connection, and whether a new one.

    aiohttp's own tracing tells the same for five times the cost, paid by every request. Connections
    are counted, too.
    """

    def __init__(self) -> None:
        super().__init__(
            limit=0, limit_per_host=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=DNS_CACHE_S
        )
        self.num_in_use = 0
        self._used: WeakSet[Any] = WeakSet()

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*args, **kwargs)
        sending, was_used = _SENDING.get(), connection.protocol in self._used
        if not was_used:
            self._used.add(connection.protocol)
        if sending is not None:
            if sending.pool is None:  # else aiohttp sends again what an idle connection lost
                sending.pool = self
                self.num_in_use += 1
            sending.socket = connection.transport
            sending.attempt.connected_ns = time.perf_counter_ns()
            sending.attempt.reused_connection = was_used
        return connection

    def count(self) -> ConnectionCounts:
        num_open = sum(protocol.is_connected() for protocol in self._used)
        return ConnectionCounts(num_open, max(0, num_open - self.num_in_use))


def _new_session(*, trust_env: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_StampingConnector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER_BYTES,
        auto_decompress=False,
        trust_env=trust_env,
    )


@lru_cache(maxsize=64)
def _client_timeout(connect_timeout_s: float | None) -> aiohttp.ClientTimeout:
    """All other limits are the caller's to keep."""
    return aiohttp.ClientTimeout(
        total=None, connect=connect_timeout_s, sock_connect=None, sock_read=None
    )


async def _send(
    session: aiohttp.ClientSession, request: WireRequest, attempt: AttemptTiming
) -> AiohttpResponse:
    sending = _Sending(attempt)
    _SENDING.set(sending)
    body = request.body
    is_large = body is not None and len(body) > MAX_PLAIN_BODY_BYTES
    is_answered = False
    try:
        response = await session.request(
            request.method,
            request.url,
            data=io.BytesIO(body or b"") if is_large else body,
            headers=request.headers,
            allow_redirects=False,
            raise_for_status=False,
            timeout=_client_timeout(request.connect_timeout_s),
        )
        is_answered = True
        return AiohttpResponse(response, sending)
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
        # aiohttp closes a connection only when what is still to be sent of the body has been sent
        if sending.socket is not None:
            with contextlib.suppress(RuntimeError):  # the loop has gone, and its sockets with it
                sending.socket.abort()
        raise
    finally:
        _SENDING.set(None)
        if not is_answered:
            sending.leave_pool()


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
