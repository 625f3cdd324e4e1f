"""A real HTTP/1.1 server on loopback of which a script writes every byte, pause and cut.

A script is `async def script(request, reply)`; it is called for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

from lorry.testing.payloads import event

_START_S = 10.0


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it came; names of headers are in lower case. `received_ns` is the
    `time.perf_counter_ns()` at which its last byte had been read."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    received_ns: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Reply:
    """The server's side of one answer."""

    def __init__(self, connection: _Connection, writer: asyncio.StreamWriter) -> None:
        self._connection = connection
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def json(self, status: int, body: Any, **headers: str) -> None:
        """`headers` by their names with underscores for hyphens."""
        await self.plain(
            status, json.dumps(body).encode(), content_type="application/json", **headers
        )

    async def plain(self, status: int, body: bytes, **headers: str) -> None:
        await self.raw(_head(status, len(body), headers) + body)

    async def half(self, status: int, body: bytes, **headers: str) -> None:
        """The head of an answer and the first half of its body."""
        await self.raw(_head(status, len(body), headers) + body[: len(body) // 2])

    async def start_stream(self, content_type: str = "text/event-stream") -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked"
        await self.raw(head.encode() + b"\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def events(self, *payloads: Any) -> None:
        """One event per payload: a str as it is, anything else as JSON."""
        await self.chunk(b"".join(event(payload) for payload in payloads))

    async def end_stream(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def stream(self, *payloads: Any) -> None:
        """A whole streamed answer, one chunk per event, with [DONE]."""
        await self.start_stream()
        for payload in (*payloads, "[DONE]"):
            await self.events(payload)
        await self.end_stream()

    def cut(self) -> None:
        """Drop the connection in the middle of whatever was being sent."""
        self._writer.transport.abort()

    async def client_left(self) -> None:
        """Wait until the client closes its end."""
        assert not await self._connection.next_byte(), "the client sent more instead of leaving"

    async def pause(self, seconds: float) -> None:
        """Wait; raises ConnectionResetError as soon as the client leaves."""
        if seconds > 0 and await self._connection.ends_within(seconds):
            raise ConnectionResetError("the client has left")


Script: TypeAlias = Callable[[ReceivedRequest, Reply], Awaitable[None]]


class ScriptedServer:
    """Serves at `url` until its block ends: `async with` in this event loop, or a plain `with` for
    a thread of its own, which suits tests that are not coroutines.

    `requests` is the log of all that came, `num_connections` the connections that were made.
    """

    def __init__(self, script: Script, *, port: int = 0) -> None:
        self.script = script
        self.port = port
        self.requests: list[ReceivedRequest] = []
        self.num_connections = 0
        self._came = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread: tuple[threading.Thread, asyncio.AbstractEventLoop] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def received(self, count: int = 1) -> None:
        """Wait until so many requests have come. In the server's own event loop only."""
        while len(self.requests) < count:
            self._came.clear()
            await self._came.wait()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    def __enter__(self) -> Self:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="lorry-fake-server", daemon=True)
        thread.start()
        self._thread = thread, loop
        asyncio.run_coroutine_threadsafe(self._start(), loop).result(timeout=_START_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        thread, loop = self._thread
        try:
            asyncio.run_coroutine_threadsafe(self._stop(), loop).result(timeout=_START_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=_START_S)
            loop.close()

    async def _start(self) -> None:
        # a connection that finds the backlog full is tried again seconds later
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        connection = _Connection(reader)
        try:
            while (request := await connection.next_request()) is not None:
                self.requests.append(request)
                self._came.set()
                await self.script(request, Reply(connection, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client or the test has left
        finally:
            self._connections.discard(task)
            connection.forget()
            writer.close()


class _Connection:
    """The client's side of a connection: its requests, and whether it is still there."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        # reads ahead while a script answers, since only a read tells that the client has left
        self._ahead: asyncio.Task[bytes] | None = None

    async def next_request(self) -> ReceivedRequest | None:
        """The next request, None if the client left instead."""
        first = await self.next_byte()
        self._ahead = None
        try:
            head = first + await self._reader.readuntil(b"\r\n\r\n")
            start, *lines = head.decode("latin-1").strip().split("\r\n")
            method, path, _ = start.split(" ")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError:
            return None
        return ReceivedRequest(method, path, headers, body, time.perf_counter_ns())

    async def next_byte(self) -> bytes:
        """What comes next, without taking it; b"" when the client has left."""
        return await self._read_ahead()

    async def ends_within(self, seconds: float) -> bool:
        """Wait as long, or until the client leaves: whether it has."""
        ahead = self._read_ahead()
        done, _ = await asyncio.wait({ahead}, timeout=seconds)
        if not done:
            return False
        if not ahead.result():
            return True
        await asyncio.sleep(seconds)  # it has sent its next request already
        return False

    def forget(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()

    def _read_ahead(self) -> asyncio.Task[bytes]:
        if self._ahead is None:
            self._ahead = asyncio.create_task(self._read_one())
        return self._ahead

    async def _read_one(self) -> bytes:
        with contextlib.suppress(ConnectionError):  # closed by a reset rather than in order
            return await self._reader.read(1)
        return b""


def _head(status: int, length: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", f"content-length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
