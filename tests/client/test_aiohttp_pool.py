"""Requests over connections of the pool: what is sent, what is read, and which connections are kept."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

import lorry
from lorry.timing import AttemptTiming
from lorry.transports.aiohttp_pool import MAX_JOINED_BODY_BYTES, MAX_KEPT_TARGETS, Pool
from lorry.transports.aiohttp_session import AiohttpSessionTransport
from lorry.transports.base import WireRequest, WireResponse
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply
from tests.support.tls_server import TlsServer

HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "test", "x-name": "é ü"}


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    await pool.aclose()


def wire(
    server: FakeLLMServer, body: bytes | None = b"{}", *, method: str = "POST", path: str = "/"
) -> WireRequest:
    headers = HEADERS if body is None else {**HEADERS, "content-type": "application/json"}
    return WireRequest(method, server.url + path, headers, body)


async def whole(response: WireResponse) -> bytes:
    body = b""
    while piece := await response.read_some():
        body += piece
    await response.aclose()
    return body


async def answer_ok(request: ReceivedRequest, reply: Reply) -> None:
    await reply.plain(200, b"" if request.method == "HEAD" else b"ok")


@pytest.mark.parametrize("body", [None, b"", b"{}", b"x" * 2 * MAX_JOINED_BODY_BYTES])
@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "delete", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/completions", "/a b/é?q=1 2&r=%2F#part", ""])
async def test_a_request_is_what_a_session_would_send(
    pool: Pool, method: str, path: str, body: bytes | None
) -> None:
    async with FakeLLMServer(answer_ok) as server, aiohttp.ClientSession() as session:
        request = wire(server, body, method=method, path=path)
        reference = await AiohttpSessionTransport(session).send(request, attempt=AttemptTiming(0))
        response = await pool.send(request, AttemptTiming(0))

        assert await whole(response) == await whole(reference) == b"ok"
        assert response.status == reference.status
        assert dict(response.headers) == dict(reference.headers)
    theirs, ours = server.requests
    assert (ours.method, ours.path, ours.body) == (theirs.method, theirs.path, theirs.body)
    for headers in (theirs.headers, ours.headers):
        # what a session says of bodies that there are not
        if not body:
            headers.pop("content-length", None)
            headers.pop("content-type", None)
    assert ours.headers == theirs.headers


async def test_a_host_that_is_given_is_sent_instead(pool: Pool) -> None:
    async with FakeLLMServer(answer_ok) as server:
        request = wire(server).replace(headers={**HEADERS, "host": "models.example"})
        await whole(await pool.send(request, AttemptTiming(0)))

    assert server.requests[0].headers["host"] == "models.example"


async def test_the_answer_to_head_has_no_body_whatever_its_length_says(pool: Pool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n")

    async with FakeLLMServer(script) as server:
        for _ in range(2):
            response = await pool.send(wire(server, None, method="HEAD"), AttemptTiming(0))
            assert await whole(response) == b""

        assert server.num_connections == 1


async def test_what_comes_before_the_answer_is_passed_over(pool: Pool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
        )
        await asyncio.sleep(0)
        await answer_ok(request, reply)

    async with FakeLLMServer(script) as server:
        response = await pool.send(wire(server), AttemptTiming(0))

        assert response.status == 200
        assert await whole(response) == b"ok"


@pytest.mark.parametrize(
    ("answer", "body", "is_kept"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 None\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
    ],
    ids=["length", "empty", "204", "chunked", "close", "1.0"],
)
async def test_a_connection_is_kept_when_its_answer_leaves_it_clean(
    pool: Pool, answer: bytes, body: bytes, is_kept: bool
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(answer)

    async with FakeLLMServer(script) as server:
        for number in range(2):
            attempt = AttemptTiming(0)
            assert await whole(await pool.send(wire(server), attempt)) == body
            assert attempt.reused_connection is (is_kept and number == 1)
            assert pool.num_in_use == 0

        assert server.num_connections == (1 if is_kept else 2)
        assert pool.count().num_idle == int(is_kept)


async def test_an_answer_without_a_length_ends_with_its_connection(pool: Pool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\n\r\nall there is")
        reply._writer.close()

    async with FakeLLMServer(script) as server:
        assert await whole(await pool.send(wire(server), AttemptTiming(0))) == b"all there is"

    assert (pool.num_in_use, pool.count().num_open) == (0, 0)


async def test_what_a_server_says_unasked_is_not_taken_for_the_next_answer(pool: Pool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await answer_ok(request, reply)
        if len(server.requests) == 1:
            await asyncio.sleep(0)
            await reply.raw(b"HTTP/1.1 408 Too Late\r\ncontent-length: 3\r\n\r\nbye")

    async with FakeLLMServer(script) as server:
        first = await pool.send(wire(server), AttemptTiming(0))
        assert await whole(first) == b"ok"
        await asyncio.sleep(0.05)  # until it has come
        attempt = AttemptTiming(0)
        second = await pool.send(wire(server), attempt)

        assert second.status == 200
        assert await whole(second) == b"ok"
        assert attempt.reused_connection is False
        assert server.num_connections == 2
        assert pool.num_in_use == 0


async def test_a_connection_whose_request_was_answered_unread_is_not_used_again(pool: Pool) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket has it
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for _ in range(2):
        attempt = AttemptTiming(0)
        response = await pool.send(WireRequest("POST", url, {}, b"x" * 2**24), attempt)
        assert response.status == 413
        assert await whole(response) == b"no"
        assert attempt.reused_connection is False
    assert (pool.num_in_use, pool.count().num_open) == (0, 0)
    server.close()


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0 hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nx" + b"y" * 9000]
)
async def test_what_is_no_http_is_a_lost_connection_that_is_closed(
    pool: Pool, answer: bytes
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(answer)
        await reply.client_left()

    async with FakeLLMServer(script) as server:
        with pytest.raises(lorry.ConnectionLost, match="no answer in HTTP") as caught:
            await pool.send(wire(server), AttemptTiming(0))

    assert "\n" not in str(caught.value)
    assert pool.num_in_use == 0


async def test_a_read_that_waits_ends_when_its_connection_is_closed_by_another(pool: Pool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.client_left()

    async with FakeLLMServer(script) as server:
        response = await pool.send(wire(server), AttemptTiming(0))
        reading = asyncio.create_task(response.read_some())
        await asyncio.sleep(0)
        response.abort()
        response.abort()
        with pytest.raises(lorry.ConnectionLost):
            await asyncio.wait_for(reading, 5)

    assert pool.num_in_use == 0


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_loop_that_is_closed_under_a_call_is_no_error(is_streamed: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", CLOSED_UNDER_A_CALL, "streamed" * is_streamed],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "left\n"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


CLOSED_UNDER_A_CALL = """
import asyncio, gc, sys, warnings
import lorry
from lorry.testing.scripted_server import ScriptedServer

warnings.simplefilter("ignore", ResourceWarning)

async def script(request, reply):
    if sys.argv[1]:
        await reply.start_stream()
    reached.append(request)
    await reply.client_left()

async def call(client):
    try:
        await (client.stream("Hi").final() if sys.argv[1] else client.generate("Hi"))
    finally:
        print("left")

async def begin(client):
    task = asyncio.create_task(call(client))
    while not reached:
        await asyncio.sleep(0.01)
    task._log_destroy_pending = False
    return task

reached = []
with ScriptedServer(script) as server:
    client = lorry.AsyncClient(server.url)
    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(begin(client))
    loop.close()
    del task
    gc.collect()
"""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda request: request.replace(headers={"x": "a\r\ny: b"}), lorry.ConfigError),
        (lambda request: request.replace(headers={"x": "a\nb"}), lorry.ConfigError),
        (lambda request: request.replace(headers={"x": "a\0b"}), lorry.ConfigError),
        (lambda request: request.replace(method="GET /x HTTP/1.1\r\ny:"), lorry.ConfigError),
        (lambda request: request.replace(url="http://"), lorry.ConnectError),
        (lambda request: request.replace(url="http://h:99999999"), lorry.ConfigError),
    ],
)
async def test_a_request_that_cannot_be_sent_is_refused(
    pool: Pool, change: Callable[[WireRequest], WireRequest], error: type[Exception]
) -> None:
    async with FakeLLMServer(answer_ok) as server:
        with pytest.raises(error):
            await pool.send(change(wire(server)), AttemptTiming(0))

        assert server.requests == []
    assert pool.num_in_use == 0


async def test_targets_are_not_kept_for_ever(pool: Pool) -> None:
    async with FakeLLMServer(answer_ok) as server:
        for number in range(MAX_KEPT_TARGETS + 10):
            request = wire(server, None, method="GET", path=f"/adapters/{number}")
            await whole(await pool.send(request, AttemptTiming(0)))

        assert len(pool._targets) <= MAX_KEPT_TARGETS
        assert server.num_connections == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_certificates_are_checked_unless_a_context_says_otherwise(tmp_path: Path) -> None:
    with TlsServer(tmp_path) as tls:
        with pytest.raises(lorry.ConnectError, match="TLS handshake failed"):
            await lorry.AsyncClient(tls.url, retry=1).generate("Hi", deadline=5)
        async with lorry.AsyncClient(tls.url, ssl_context=tls.trusting_context()) as client:
            assert (await client.generate("Hi", deadline=5)).text == "sealed"


def test_a_context_beside_a_transport_is_refused() -> None:
    with pytest.raises(lorry.ConfigError, match="ssl_context"):
        lorry.AsyncClient(
            "http://h:1", transport=Silent(), ssl_context=ssl.create_default_context()
        )


class Silent:
    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> WireResponse:
        raise AssertionError

    async def aclose(self) -> None: ...
