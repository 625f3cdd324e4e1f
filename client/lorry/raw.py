"""`client.raw`: any request to the server, bytes in and bytes out, whatever the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, Unpack

from lorry.config import checked_headers
from lorry.errors import ClientError, ConfigError
from lorry.exchange import Exchange
from lorry.options import resolve
from lorry.request_options import RequestOptions
from lorry.session import Session
from lorry.timing import Timing


@dataclass(frozen=True, slots=True)
class RawResponse:
    """An answer as it came. Names of `headers` are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str
    timing: Timing


class RawClient:
    """`await client.raw(method, path, body=...)`, or `client.raw.stream(...)` for the body in pieces.

    A status is never an error here, and so never sent again: only a refused connection is. The
    client's key, headers, limits of time and limiter hold as for every call; `headers` are added.
    `lorry.request_options.RequestOptions` lists the options; `adapter` says whose turn the limiter
    counts it as. Bodies are sent and returned as they are. A client of several servers says which
    by `client.at(url)`. Raises TypeError for an unknown option.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Unpack[RequestOptions],
    ) -> RawResponse:
        """Send one request and read its whole answer; raises ClientError if none came."""
        exchange = self._exchange(method, path, body, headers, options)
        response = await exchange.open()
        status, names = response.status, _plain(response.headers)
        answer = await exchange.read_all()
        return RawResponse(
            status, names, answer, exchange.call.request_id, exchange.stopwatch.snapshot()
        )

    def stream(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Unpack[RequestOptions],
    ) -> RawStream:
        """An answer to be read piece by piece; the request goes out on `async with`."""
        return RawStream(self._exchange(method, path, body, headers, options))

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        options: RequestOptions,
    ) -> Exchange:
        if not path.startswith("/"):
            raise ConfigError(f"path is {path!r}; it must begin with a slash")
        return self._session.exchange(
            method,
            path,
            options=resolve(options, timeout=self._session.config.timeout, known=RequestOptions),
            body=body,
            accept="*/*",
            headers=checked_headers(headers),
            takes_turn=True,
            takes_any_status=True,
        )


class RawStream:
    """The pieces of an answer as they come from the socket; the cuts between them mean nothing.

        async with client.raw.stream("GET", "/metrics") as answer:
            async for piece in answer:
                ...

    `status` and `headers` are there inside the block; leaving it early closes the connection.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.request_id = exchange.call.request_id
        self._exchange = exchange

    async def __aenter__(self) -> Self:
        response = await self._exchange.open()
        self._exchange.first_token_came()  # it cannot be seen, so no limit may wait for it
        self.status, self.headers = response.status, _plain(response.headers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exchange.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self.status:
            raise RuntimeError("a RawStream is read inside `async with`")
        if not self._exchange.is_open:
            raise StopAsyncIteration
        try:
            piece = await self._exchange.read()
        except ClientError as error:
            self._exchange.describe(error)
            raise
        if not piece:
            self._exchange.end()
            await self._exchange.close()
            raise StopAsyncIteration
        return piece

    @property
    def timing(self) -> Timing:
        """The record so far."""
        return self._exchange.stopwatch.snapshot()


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
