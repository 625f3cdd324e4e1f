"""The same calls through every HTTP library that is accepted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest

import lorry
from lorry.transports.base import WireRequest, WireResponse
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

LIBRARIES: dict[str, Callable[[], Any]] = {
    "default": lambda: contextlib.nullcontext(None),
    "aiohttp": aiohttp.ClientSession,
    "httpx": httpx.AsyncClient,
    "httpx2": httpx2.AsyncClient,
}


@pytest.fixture(params=sorted(LIBRARIES))
async def http_client(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with LIBRARIES[request.param]() as client:
        yield client


async def test_generation_and_stream_work_through_every_library(http_client: Any) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json.get("stream"):
            await reply.stream(completion("a"), completion("b", finish_reason="stop"))
        else:
            await reply.json(200, completion("whole", finish_reason="stop"))

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, transport=http_client, api_key="k") as client,
    ):
        whole = await client.generate("Hi")
        streamed = await client.stream("Hi").final()
        await client.stream("Hi").final()

    assert (whole.text, streamed.text) == ("whole", "ab")
    assert server.num_connections == 1
    assert server.requests[0].headers["authorization"] == "Bearer k"
    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_refused_connection_is_one_through_every_library(http_client: Any) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        retry = lorry.RetryPolicy(max_attempts=2, base_s=0.0)
        client = lorry.AsyncClient(url, transport=http_client, retry=retry)
        with pytest.raises(lorry.ConnectError) as caught:
            await client.generate("Hi")

    assert caught.value.retryable is True
    assert caught.value.attempts == 2


async def test_cut_stream_is_truncated_through_every_library(http_client: Any) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a"))
        reply.cut()

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, transport=http_client)
        with pytest.raises(lorry.StreamTruncated) as caught:
            await client.stream("Hi").final()

    assert caught.value.partial is not None
    assert caught.value.partial.text in ("a", "")


async def test_dropped_request_is_a_lost_connection_through_every_library(http_client: Any) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        reply.cut()

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, transport=http_client)
        with pytest.raises(lorry.ConnectionLost):
            await client.generate("Hi")

    assert len(server.requests) == 1


@pytest.mark.parametrize("stage", ["headers", "tokens"])
async def test_cancelled_task_closes_the_connection_through_every_library(
    http_client: Any, stage: str
) -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if stage == "tokens":
            await reply.start_stream()
            await reply.events(completion("a"))
        reached.set()
        await reply.client_left()
        left.set()

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, transport=http_client)
        task = asyncio.create_task(client.stream("Hi").text())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await left.wait()
        await client.aclose()

    assert left.is_set()


async def test_cancel_of_an_idle_stream_reaches_the_server_through_every_library(
    http_client: Any,
) -> None:
    left = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a"))
        await reply.client_left()
        left.set()

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, transport=http_client)
        stream = client.stream("Hi")
        await anext(stream)
        stream.cancel()
        await left.wait()
        await stream.aclose()
        await client.aclose()

    assert left.is_set()


async def test_deadline_is_kept_through_every_library(http_client: Any) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.client_left()

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, transport=http_client)
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            await client.generate("Hi", deadline=0.05)
        await client.aclose()

    assert caught.value.phase == "headers"


async def test_reuse_of_a_connection_is_reported_by_httpx2() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, completion("x", finish_reason="stop"))

    async with FakeLLMServer(script) as server, httpx2.AsyncClient() as http:
        client = lorry.AsyncClient(server.url, transport=http)
        first = await client.generate("Hi")
        second = await client.generate("Hi")

    assert (first.timing.reused_connection, second.timing.reused_connection) == (False, True)
    assert first.timing.connect is not None


async def asgi_app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
    body = json.loads((await receive())["body"])
    chunks = [completion("in "), completion("process", finish_reason="stop")]
    if body.get("stream"):
        kind = b"text/event-stream"
        answer = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    else:
        kind = b"application/json"
        answer = json.dumps(completion("in process", finish_reason="stop")).encode()
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
    await send(head)
    await send({"type": "http.response.body", "body": answer})


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_calls_stay_in_process_over_an_asgi_transport(library: Any) -> None:
    transport = library.ASGITransport(app=asgi_app)
    async with library.AsyncClient(transport=transport) as http:
        client = lorry.AsyncClient("http://in.process", transport=http)
        whole = await client.generate("Hi")
        streamed = await client.stream("Hi").text()

    assert (whole.text, streamed) == ("in process", "in process")


async def test_injected_client_is_left_open() -> None:
    async with httpx2.AsyncClient() as http:
        async with lorry.AsyncClient("http://x", transport=http):
            pass
        is_closed = http.is_closed

    assert is_closed is False


class RecordedResponse:
    status = 200
    at_end = False

    def __init__(self, body: bytes) -> None:
        self.headers = {"content-type": "application/json"}
        self._body = body

    def read_nowait(self) -> bytes:
        return b""

    async def read_some(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def abort(self) -> None: ...

    async def aclose(self) -> None: ...


class RecordedTransport:
    def __init__(self) -> None:
        self.requests: list[WireRequest] = []

    async def send(self, request: WireRequest, *, attempt: lorry.AttemptTiming) -> WireResponse:
        self.requests.append(request)
        return RecordedResponse(json.dumps(completion("recorded", finish_reason="stop")).encode())

    async def aclose(self) -> None: ...


async def test_own_transport_sees_the_whole_request() -> None:
    transport = RecordedTransport()
    async with lorry.AsyncClient("http://x/v1/", transport=transport, api_key="k") as client:
        generation = await client.generate("Hi")

    assert generation.text == "recorded"
    assert transport.requests[0].url == "http://x/v1/completions"
    assert "Bearer" not in repr(transport.requests[0])


@pytest.mark.parametrize("wrong", [httpx.Client(), "aiohttp", httpx2.AsyncClient])
def test_anything_else_is_refused_as_transport(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"it must be an httpx\.AsyncClient"):
        lorry.AsyncClient("http://x", transport=wrong)


async def test_an_answer_that_is_known_to_be_read_has_nothing_left(http_client: Any) -> None:
    ends: list[tuple[bool, bytes]] = []

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, completion("whole", finish_reason="stop"))

    async def look(request: WireRequest, call_next: lorry.CallNext) -> WireResponse:
        response = await call_next(request)
        assert not response.at_end
        while await response.read_some():
            pass
        ends.append((response.at_end, await response.read_some()))
        return await call_next(request)

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, transport=http_client, middleware=[look]) as client,
    ):
        generation = await client.generate("Hi")

    assert generation.text == "whole"
    # the libraries of the httpx family do not tell, which is as good
    assert ends in ([(True, b"")], [(False, b"")])


async def test_a_connection_that_ends_in_a_whole_answer_is_closed_and_lost(
    http_client: Any,
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        reply.cut()

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, transport=http_client)
        with pytest.raises(lorry.ConnectionLost):
            await client.generate("Hi")

    assert client.stats().num_connections_open in (0, None)
