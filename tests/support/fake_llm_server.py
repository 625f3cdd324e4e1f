"""A scripted HTTP/1.1 server on loopback: every byte, cut and pause of an answer is the test's.

A script is `async def script(request, reply)`; it is called for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class ReceivedRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Reply:
    """The server's side of one answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
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
        lines = [f"HTTP/1.1 {status} Scripted", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

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
        with contextlib.suppress(ConnectionError):  # closed by a reset rather than in order
            assert await self._reader.read(1) == b""


Script = Callable[[ReceivedRequest, Reply], Awaitable[None]]


class FakeLLMServer:
    """`async with FakeLLMServer(script) as server:` serves at `server.url` until the block ends."""

    def __init__(self, script: Script, *, port: int = 0) -> None:
        self.script = script
        self._port = port
        self.requests: list[ReceivedRequest] = []
        self.num_connections = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        # a connection that finds the backlog full is tried again seconds later
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, backlog=4096
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                await self.script(request, Reply(reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client or the test has left
        finally:
            self._connections.discard(connection)
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> ReceivedRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = start.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return ReceivedRequest(method, path, headers, body)


def event(payload: Any) -> bytes:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return f"data: {text}\n\n".encode()


def completion(text: str, **fields: Any) -> dict[str, Any]:
    """A whole completion, or one chunk; fields named as the choice's go there."""
    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None}
    return _answer("text_completion", choice, fields)


def chat_answer(content: str, **fields: Any) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": "stop",
    }
    return _answer("chat.completion", choice, fields)


def chat_chunk(delta: dict[str, Any], **fields: Any) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
    return _answer("chat.completion.chunk", choice, fields)


def usage_chunk(prompt_tokens: int, completion_tokens: int, **fields: Any) -> dict[str, Any]:
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return {**_answer("text_completion", {}, {}), "choices": [], "usage": usage, **fields}


def _answer(kind: str, choice: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    of_choice = ("finish_reason", "stop_reason", "token_ids", "logprobs")
    choice.update({name: fields.pop(name) for name in of_choice if name in fields})
    return {
        "id": "cmpl-1",
        "object": kind,
        "created": 1,
        "model": "fake",
        "choices": [choice],
        **fields,
    }
