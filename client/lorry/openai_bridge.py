"""An `httpx2.AsyncClient` (or `httpx`) whose requests are calls of our own.

So a program that speaks through that library, `openai` above all, has our connections, retries,
deadlines and limits, and errors that say what happened: a refused connection is a `ConnectError`,
never a timeout. Bytes of a stream are passed on as they come. They are read on the way, for the
stamps of tokens, and so that a stream which ends before its end is an error.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NoReturn, Self

import msgspec

from lorry.assembly import CHAT, COMPLETIONS, Dialect, GenerationBuilder
from lorry.call_log import LoggedCall
from lorry.call_outcome import unfinished
from lorry.errors import (
    ClientError,
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    HTTPStatusError,
    RetriesExhausted,
    StreamError,
    StreamProtocolError,
)
from lorry.exchange import Exchange
from lorry.generation import Token
from lorry.intake import Intake
from lorry.options import CallOptions, resolve
from lorry.session import Session
from lorry.timeout import Timeout

# `openai` insists on a key; this one is not sent
NO_KEY = "no-key"

# what the connection and this client decide for themselves
_NOT_PASSED_ON = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "accept"}
)
_DIALECTS: dict[str, Dialect] = {"/v1/completions": COMPLETIONS, "/v1/chat/completions": CHAT}


class _Fields(msgspec.Struct):
    """What a call needs to know of a generation's body."""

    model: str | None = None
    adapter_id: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


def bridge(session: Session, *, library: ModuleType) -> Any:
    """An `AsyncClient` of `library` that sends through `session`. Closing it closes nothing of ours."""

    # mypy knows no base class that is only known when the program runs
    class Body(_Body, library.AsyncByteStream):  # type: ignore[misc, name-defined]
        """The library asks for one of its own streams."""

    # nor this one
    class Bridge(_Bridge, library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        """And for one of its own transports."""

    # without the environment, whose proxies would lead past us
    return library.AsyncClient(transport=Bridge(session, library, Body), trust_env=False)


class _Bridge:
    def __init__(self, session: Session, library: ModuleType, body_class: type[_Body]) -> None:
        self._session = session
        self._library = library
        self._body_class = body_class

    async def handle_async_request(self, request: Any) -> Any:
        """Called by the library; returns its response or raises one of its errors."""
        body = await request.aread()
        options = self._options(request, body)
        # so that errors which have no response name their call
        request.headers["x-request-id"] = options.request_id
        exchange = self._session.exchange(
            request.method,
            self._path(request),
            options=options,
            body=body or None,
            accept=request.headers.get("accept", "*/*"),
            headers=_headers(request),
            # what asks for a server's state waits for nobody, and is to be asked of one server
            takes_turn=request.method == "POST",
            any_server=request.method == "POST",
        )
        logged = self._session.call_log.add(options.request_id, exchange.stopwatch)
        try:
            response = await exchange.open()
        except ClientError as error:
            return self._refusal(error, options, request)
        reader = None
        if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            dialect = _DIALECTS.get(request.url.path)
            reader = None if dialect is None else _StreamReader(exchange, dialect, logged)
        if reader is None:
            exchange.first_token_came()  # it cannot be seen, so no limit may wait for it
        headers = {**response.headers, "x-request-id": options.request_id}
        answer = self._body_class(exchange, reader, self._library)
        return self._library.Response(response.status, headers=headers, stream=answer)

    async def aclose(self) -> None:
        """The session is its client's."""

    def _options(self, request: Any, body: bytes) -> CallOptions:
        try:
            fields = msgspec.json.decode(body, type=_Fields)
        except msgspec.DecodeError:
            fields = _Fields()  # not JSON, or not of ours: there is nothing to know
        return resolve(
            {
                "adapter": fields.adapter_id or fields.model,
                "max_tokens": fields.max_completion_tokens or fields.max_tokens,
                "timeout": _timeout(request, self._session.config.timeout),
                "request_id": request.headers.get("x-request-id"),
            },
            timeout=self._session.config.timeout,
        )

    def _path(self, request: Any) -> str:
        """Path and query; an address elsewhere is refused, since nothing of ours goes there."""
        url = str(request.url)
        for ours in self._session.endpoints:
            if url.startswith(f"{ours}/"):
                return url.removeprefix(ours)
        raise self._library.UnsupportedProtocol(
            f"{url} is not at {' or '.join(self._session.endpoints)}; make an AsyncOpenAI of its own "
            "for another server"
        )

    def _refusal(self, error: ClientError, options: CallOptions, request: Any) -> Any:
        """The server's own answer again if it gave one, else the library's error is raised."""
        last = error.causes[-1] if isinstance(error, RetriesExhausted) and error.causes else error
        if not isinstance(last, HTTPStatusError):
            _raise_translated(last, self._library)
        headers = {"content-type": "application/json", "x-request-id": options.request_id}
        if last.retry_after is not None:
            headers["retry-after"] = f"{last.retry_after:g}"
        content = last.body or ""
        if key := request.headers.get("authorization", "").rpartition(" ")[2]:
            content = content.replace(key, "***")  # it may be another than the client's
        return self._library.Response(last.status, headers=headers, content=content.encode())


class _Body:
    """The body of an answer, as the library reads it; one position, however often it is iterated."""

    def __init__(
        self, exchange: Exchange, reader: _StreamReader | None, library: ModuleType
    ) -> None:
        self._exchange = exchange
        self._reader = reader
        self._library = library
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._is_closed:
            raise StopAsyncIteration
        try:
            exchange = self._exchange
            data = await (exchange.read_end() if self._is_complete else exchange.read())
        except ClientError as error:
            if self._is_complete and isinstance(error, ConnectionLost):
                self._exchange.end()  # nothing of the text is missing
                await self.aclose()
                raise StopAsyncIteration from None
            self._exchange.describe(error)
            await self.aclose()
            _raise_translated(error, self._library)
        if data:
            if self._reader is not None:
                self._reader.read(data)
            return data
        if self._reader is not None and self._reader.is_cut:
            cut = unfinished()
            self._exchange.describe(cut)
            await self.aclose()
            _raise_translated(cut, self._library)
        if self._reader is None or self._reader.failure is None:
            self._exchange.end()
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._reader is not None and self._reader.failure is not None:
            self._exchange.describe(self._reader.failure)
        if self._reader is not None and self._reader.has_ended:
            await self._exchange.finish()
            return
        await self._exchange.close()

    @property
    def _is_complete(self) -> bool:
        return self._reader is not None and self._reader.is_complete


class _StreamReader:
    """Reads along in a stream of tokens, without changing it.

    What it cannot read it leaves to the program above, and then has no opinion on its end.
    """

    def __init__(self, exchange: Exchange, dialect: Dialect, logged: LoggedCall) -> None:
        self._exchange = exchange
        self._logged = logged
        self._builder = GenerationBuilder(dialect)
        self._intake = Intake(self._builder)
        self._can_read = True
        self.failure: ClientError | None = None  # that the server reported

    def read(self, data: bytes) -> None:
        if not self._can_read:
            return
        tokens: list[Token] = []
        try:
            self._intake.take(data, self._exchange.stopwatch, tokens)
            if tokens:
                self._exchange.first_token_came()
        except ClientError as error:
            self._can_read = False
            if not isinstance(error, StreamProtocolError):
                self.failure = error
            self._exchange.first_token_came()
            return
        if self._builder.is_complete:
            self._logged.num_tokens = self._builder.usage.completion_tokens

    @property
    def is_complete(self) -> bool:
        return self._can_read and self._builder.is_complete

    @property
    def has_ended(self) -> bool:
        return self._can_read and self._builder.has_ended

    @property
    def is_cut(self) -> bool:
        """If the stream ended here, something would be missing."""
        return self._can_read and not self._builder.is_complete


def _headers(request: Any) -> dict[str, str]:
    headers = {
        name.lower(): value
        for name, value in request.headers.items()
        if name.lower() not in _NOT_PASSED_ON
    }
    if headers.get("authorization") == f"Bearer {NO_KEY}":
        del headers["authorization"]
    return headers


def _timeout(request: Any, ours: Timeout) -> Timeout | None:
    """What `timeout=` of a call of `openai` says: a number is the total, as everywhere in lorry.

    Of an `httpx2.Timeout` with several values, `connect` and `read` hold: the limit on connecting
    and that on silence within an answer.
    """
    limits = request.extensions.get("timeout", {})
    connect, read = limits.get("connect"), limits.get("read")
    if connect is None and read is None:
        return None
    if len({limits.get(name) for name in ("connect", "read", "write", "pool")}) == 1:
        return Timeout(
            total=read, connect=ours.connect, first_token=ours.first_token, idle=ours.idle
        )
    return Timeout(
        total=ours.total,
        connect=connect or ours.connect,
        first_token=ours.first_token,
        idle=read or ours.idle,
    )


def _raise_translated(error: ClientError, library: ModuleType) -> NoReturn:
    """Raise the library's error for ours, which is its cause; what it has no word for as it is."""
    if isinstance(error, ConnectError):
        raise library.ConnectError(str(error)) from error
    if isinstance(error, ConnectionLost):
        raise library.ReadError(str(error)) from error
    if isinstance(error, DeadlineExceeded):
        kinds = {"queue": library.PoolTimeout, "connect": library.ConnectTimeout}
        raise kinds.get(error.phase, library.ReadTimeout)(str(error)) from error
    if isinstance(error, StreamError):
        raise library.RemoteProtocolError(str(error)) from error
    raise error
