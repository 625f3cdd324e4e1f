"""A client that leaves, at any moment and by any route, ends its sequences."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.http_app import MODEL, fake_app, ids
from tests.support.live_server import live_server

CHAT = [{"role": "user", "content": "hi"}]
WHOLE = [
    ("/v1/completions", {"model": MODEL, "prompt": ["p", "q"], "n": 2}),
    ("/v1/chat/completions", {"model": MODEL, "messages": CHAT, "n": 2}),
    ("/generate", {"inputs": "p"}),
    ("/", {"inputs": "p"}),
]
STREAMED = [
    ("/v1/completions", {"model": MODEL, "prompt": ["p", "q"], "n": 2, "stream": True}),
    ("/v1/chat/completions", {"model": MODEL, "messages": CHAT, "stream": True}),
    ("/generate_stream", {"inputs": "p"}),
    ("/", {"inputs": "p", "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMED])
async def test_client_that_leaves_before_the_first_token_ends_its_sequences(path, body):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        call = asyncio.create_task(client.post(url + path, json=body))
        await engine.wait_for(lambda: bool(engine.submitted))

        call.cancel()
        await asyncio.wait([call])
        await engine.wait_for(lambda: engine.num_open == 0)

    assert sorted(engine.aborted) == sorted(r.request_id for r in engine.submitted)


@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_client_that_leaves_in_the_middle_of_a_stream_ends_its_sequences(path, body):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        async with client.stream("POST", url + path, json=body) as response:
            await engine.step(2)
            await anext(response.aiter_bytes())
        await engine.wait_for(lambda: engine.num_open == 0)

    assert sorted(engine.aborted) == sorted(r.request_id for r in engine.submitted)


async def test_failure_of_one_sequence_ends_the_others():
    engine = FakeEngine(lambda r: ids("x" * 90))
    engine.fail_after = 1
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        response = await client.post(
            f"{url}/v1/completions",
            json={"model": MODEL, "prompt": "p", "n": 4, "max_tokens": 90},
        )
        await engine.wait_for(lambda: engine.num_open == 0)

    assert response.status_code == 500


async def test_reader_that_takes_nothing_is_cut_off():
    """More is written than the sockets hold, to a client that never reads."""
    engine = FakeEngine(
        ids("x") * 100_000, info=fake_info(max_model_len=200_000), tokens_per_output=1000
    )
    engine.hold()
    app = fake_app(engine, stall_timeout_s=0.05)
    body = {"model": MODEL, "prompt": "p", "stream": True, "max_tokens": 100_000}
    request = http_request("/v1/completions", body | {"return_token_ids": True})
    async with live_server(app, send_buffer_bytes=4096) as url:
        with silent_connection(url) as connection:
            await asyncio.get_running_loop().sock_sendall(connection, request)
            await engine.wait_for(lambda: bool(engine.submitted))
            await engine.step(50_000)
            await engine.wait_for(lambda: engine.num_open == 0)

    assert engine.aborted == [engine.submitted[0].request_id]


async def test_reader_that_does_not_even_take_comments_is_cut_off():
    engine = FakeEngine(ids("x") * 100_000, info=fake_info(max_model_len=200_000))
    engine.hold()
    app = fake_app(engine, stall_timeout_s=0.05, keep_alive_s=1e-6)
    body = {"model": MODEL, "prompt": "p", "stream": True, "max_tokens": 100_000}
    async with live_server(app, send_buffer_bytes=4096) as url:
        with silent_connection(url) as connection:
            await asyncio.get_running_loop().sock_sendall(
                connection, http_request("/v1/completions", body)
            )
            await engine.wait_for(lambda: bool(engine.submitted))
            await engine.wait_for(lambda: engine.num_open == 0)

    assert engine.aborted == [engine.submitted[0].request_id]


@contextmanager
def silent_connection(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.setblocking(False)
        yield connection


def http_request(path: str, body: dict) -> bytes:
    content = json.dumps(body)
    return (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n{content}"
    ).encode()
