"""A server of the OpenAI routes whose token times are known: `python -m lorry_loadtest.mock_server`.

It has no model. Token j of a request is due `first_ms + j * gap_ms` after the request was read,
both stretched by `slowdown` for every other stream that was open at that moment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

Fault = Literal["http_429", "http_500", "error_event", "cut", "no_done", "garbage", "hang"]

BASE_MODEL = "mock-base"


@dataclass(frozen=True, slots=True)
class MockTimes:
    """Milliseconds to the first token and between tokens, and how other streams stretch them."""

    first_ms: float = 50.0
    gap_ms: float = 10.0
    slowdown: float = 0.0
    tokens_per_event: int = 1


@dataclass(slots=True)
class ServedRequest:
    """What the server saw of one request and when it wrote each event (`perf_counter_ns`)."""

    body: dict[str, Any]
    received_ns: int
    sent_ns: list[int] = field(default_factory=list)


@dataclass(slots=True)
class MockServer:
    """Serves on loopback between `start` and `stop`. `faults` names requests by their number."""

    times: MockTimes = field(default_factory=MockTimes)
    adapters: tuple[str, ...] = ("alpha", "beta")
    faults: Mapping[int, Fault] = field(default_factory=dict)
    fault_every: int = 0
    fault: Fault = "http_500"
    served: list[ServedRequest] = field(default_factory=list)
    num_connections: int = 0
    _num_open: int = 0
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, *, port: int = 0) -> int:
        """Returns the port that was bound."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections)
        await self._server.wait_closed()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        # a client that leaves ends its connection, and `stop` cancels all that are left
        with contextlib.suppress(ConnectionError, EOFError, asyncio.CancelledError):
            while await self._answer_one(reader, writer):
                pass
        writer.close()
        self._connections.discard(connection)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open for another request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split(" ", 2)
        length = next(
            (
                int(line[15:])
                for line in head.splitlines()
                if line.lower().startswith("content-length:")
            ),
            0,
        )
        body = await reader.readexactly(length)
        if method == "GET":
            known = path.endswith("/v1/models")
            writer.write(_json(200, self._models()) if known else _json(404, {"error": "no route"}))
            return True
        served = ServedRequest(body=msgspec.json.decode(body), received_ns=time.perf_counter_ns())
        self.served.append(served)
        return await self._stream(served, writer, is_chat="chat" in path)

    async def _stream(
        self, served: ServedRequest, writer: asyncio.StreamWriter, *, is_chat: bool
    ) -> bool:
        fault = self._fault_of(len(self.served) - 1)
        if fault in ("http_429", "http_500"):
            error = {"message": f"asked to fail with {fault}", "type": fault}
            writer.write(_json(int(fault[-3:]), {"error": error}))
            return True
        if fault == "hang":
            await asyncio.Event().wait()
        self._num_open += 1
        try:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            return await self._write_events(served, writer, fault=fault, is_chat=is_chat)
        finally:
            self._num_open -= 1

    async def _write_events(
        self,
        served: ServedRequest,
        writer: asyncio.StreamWriter,
        *,
        fault: Fault | None,
        is_chat: bool,
    ) -> bool:
        stretch = 1 + self.times.slowdown * (self._num_open - 1)
        num_tokens = served.body["max_tokens"]
        step = self.times.tokens_per_event
        for first in range(0, num_tokens, step):
            count = min(step, num_tokens - first)
            due_ms = stretch * (self.times.first_ms + (first + count - 1) * self.times.gap_ms)
            await _sleep_until(served.received_ns + round(due_ms * 1e6))
            if fault is not None and first >= num_tokens // 2:
                return _break(writer, fault)
            served.sent_ns.append(time.perf_counter_ns())
            is_last = first + count == num_tokens
            _write_event(writer, _token_chunk(first, count, is_chat=is_chat, is_last=is_last))
            await writer.drain()
        _write_event(writer, self._last_chunk(served, num_tokens, stretch))
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True

    def _fault_of(self, number: int) -> Fault | None:
        if self.fault_every and number % self.fault_every == self.fault_every - 1:
            return self.fault
        return self.faults.get(number)

    def _models(self) -> dict[str, Any]:
        cards = [{"id": BASE_MODEL, "object": "model", "created": 0}]
        cards += [
            {"id": name, "object": "model", "created": 0, "parent": BASE_MODEL}
            for name in self.adapters
        ]
        return {"object": "list", "data": cards}

    def _last_chunk(self, served: ServedRequest, num_tokens: int, stretch: float) -> dict[str, Any]:
        model = served.body["model"]
        num_prompt_tokens = len(str(served.body.get("prompt", "")).split())
        return {
            "choices": [],
            "usage": {
                "prompt_tokens": num_prompt_tokens,
                "completion_tokens": num_tokens,
                "total_tokens": num_prompt_tokens + num_tokens,
            },
            "timings": {
                "request_id": f"mock-{len(self.served)}",
                "adapter": None if model == BASE_MODEL else model,
                "queue_ms": (stretch - 1) * self.times.first_ms,
                "prefill_ms": self.times.first_ms,
                "decode_ms": stretch * self.times.gap_ms * (num_tokens - 1),
                "cached_tokens": 0,
                "steps": num_tokens,
                "max_batch": self._num_open,
                "preemptions": 0,
            },
        }


async def _sleep_until(due_ns: int) -> None:
    await asyncio.sleep(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))


def _break(writer: asyncio.StreamWriter, fault: Fault) -> bool:
    """Ends a stream as `fault` says."""
    match fault:
        case "error_event":
            _write_event(writer, {"error": {"message": "asked to fail", "type": "internal"}})
            writer.write(b"0\r\n\r\n")
        case "garbage":
            writer.write(_chunk(b"data: {not json\n\n") + b"0\r\n\r\n")
        case "no_done":
            _write_event(writer, _token_chunk(0, 1, is_chat=False, is_last=True))
            writer.write(b"0\r\n\r\n")
        case _:
            return False
    return True


def _token_chunk(first: int, count: int, *, is_chat: bool, is_last: bool) -> dict[str, Any]:
    text = "".join(f"word{number} " for number in range(first, first + count))
    said: dict[str, Any] = {"delta": {"content": text}} if is_chat else {"text": text}
    finish_reason = "length" if is_last else None
    token_ids = list(range(first, first + count))
    return {
        "choices": [said | {"index": 0, "finish_reason": finish_reason, "token_ids": token_ids}]
    }


def _write_event(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    writer.write(_chunk(b"data: " + msgspec.json.encode(event) + b"\n\n"))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(status: int, body: dict[str, Any]) -> bytes:
    encoded = msgspec.json.encode(body)
    return (
        b"HTTP/1.1 %d Mock\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (status, len(encoded))
    ) + encoded


async def _run(server: MockServer, port: int) -> None:
    bound = await server.start(port=port)
    print(f"mock server on http://127.0.0.1:{bound}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()


def main() -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description="A server with known token times, on loopback.")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--first-ms", type=float, default=50.0, help="time to the first token")
    parser.add_argument("--gap-ms", type=float, default=10.0, help="time between tokens")
    parser.add_argument("--slowdown", type=float, default=0.0, help="stretch per other stream")
    parser.add_argument("--tokens-per-event", type=int, default=1)
    parser.add_argument("--adapters", default="alpha,beta", help="names, with commas between")
    parser.add_argument("--fault-every", type=int, default=0, help="every n-th request fails")
    parser.add_argument("--fault", choices=get_args(Fault), default="http_500", help="and how")
    options = parser.parse_args()
    times = MockTimes(
        first_ms=options.first_ms,
        gap_ms=options.gap_ms,
        slowdown=options.slowdown,
        tokens_per_event=options.tokens_per_event,
    )
    server = MockServer(
        times=times,
        adapters=tuple(name for name in options.adapters.split(",") if name),
        fault_every=options.fault_every,
        fault=options.fault,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(server, options.port))


if __name__ == "__main__":
    main()
