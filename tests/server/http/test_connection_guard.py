"""Connections that come slowly, or in too great a number."""

from __future__ import annotations

import asyncio

import httpx

from lorry_server.http.connection_guard import guarded_protocol
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, fake_app, ids
from tests.support.live_server import live_server

MAX_HEADER_BYTES = 60_000  # the limit on the size of a head is further away
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def test_connection_that_says_nothing_is_closed():
    protocol = guarded_protocol(head_timeout_s=0.05)
    async with live_server(fake_app(FakeEngine()), http=protocol) as url:
        reader, writer = await connect(url)
        received = await reader.read()
        writer.close()

    assert received == b""


async def test_bytes_win_a_head_no_time():
    """There is never a pause between two bytes."""
    protocol = guarded_protocol(head_timeout_s=0.05)
    async with live_server(fake_app(FakeEngine()), http=protocol) as url:
        _, writer = await connect(url)
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        num_sent = await send_until_closed(writer)

    assert num_sent < MAX_HEADER_BYTES


async def send_until_closed(writer: asyncio.StreamWriter) -> int:
    """Write a header that does not end, one byte at a time."""
    for num_sent in range(MAX_HEADER_BYTES):
        if writer.is_closing():
            return num_sent
        writer.write(b"a")
        await asyncio.sleep(0)
    return MAX_HEADER_BYTES


async def test_late_head_of_a_second_request_is_answered_with_408():
    protocol = guarded_protocol(head_timeout_s=0.05)
    async with live_server(fake_app(FakeEngine()), http=protocol) as url:
        reader, writer = await connect(url)
        writer.write(REQUEST)
        first = await reader.readuntil(b'{"status":"live"}')
        writer.write(REQUEST[:5])
        second = await reader.read()
        writer.close()

    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 408 ")


async def test_slow_answer_is_not_a_slow_head():
    engine = FakeEngine(ids("hey"))
    engine.hold()
    protocol = guarded_protocol(head_timeout_s=0.02)
    app = fake_app(engine, keep_alive_s=0.05)
    body = {"model": MODEL, "prompt": "p", "stream": True}
    async with (
        live_server(app, http=protocol) as url,
        httpx.AsyncClient() as client,
        client.stream("POST", f"{url}/v1/completions", json=body) as response,
    ):
        received = response.aiter_bytes()
        first = await anext(received)
        await engine.release()
        rest = b"".join([chunk async for chunk in received])

    assert first.startswith(b": keep-alive")
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_connection_that_is_one_too_many_is_closed():
    protocol = guarded_protocol(max_connections=1)
    async with live_server(fake_app(FakeEngine()), http=protocol) as url:
        first_reader, first_writer = await connect(url)
        first_writer.write(REQUEST)
        first = await first_reader.readuntil(b'{"status":"live"}')
        second_reader, second_writer = await connect(url)
        second = await asyncio.gather(second_reader.read(), return_exceptions=True)
        first_writer.close()
        second_writer.close()

    assert first.startswith(b"HTTP/1.1 200 ")
    assert second[0] == b"" or isinstance(second[0], ConnectionResetError)
