"""Requests that end otherwise than with a whole answer: closed under them, answered early, not sendable."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler

import lorry
from lorry.timing import AttemptTiming
from lorry.transports.aiohttp import AiohttpTransport
from lorry.transports.aiohttp_body import PIECE_BYTES, write_in_pieces
from lorry.transports.aiohttp_pool import Pool
from lorry.transports.base import WireRequest, WireResponse
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply
from tests.support.tls_server import TlsServer

LARGE = b"x" * 2**24  # more than the buffers of a socket hold
LIMIT_S = 10  # of what must not wait for ever

RawAnswer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool()
    yield pool
    await pool.aclose()


@contextlib.asynccontextmanager
async def raw_server(
    answer: RawAnswer, context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """The address of a server that says what `answer` writes, and then leaves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"{'https' if context else 'http'}://localhost:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


def post(url: str, body: bytes = b"{}") -> WireRequest:
    return WireRequest("POST", url, {}, body)


async def whole(response: WireResponse) -> bytes:
    body = b""
    try:
        while piece := await asyncio.wait_for(response.read_some(), LIMIT_S):
            body += piece
    finally:
        await response.aclose()
    return body


BEGINNINGS = {
    "headers": b"",
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok",
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    "end": b"HTTP/1.1 200 OK\r\n\r\nok",
}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS.keys())
async def test_who_waits_for_an_answer_gets_an_error_when_the_pool_is_closed(
    pool: Pool, beginning: bytes
) -> None:
    reached = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(beginning)
        reached.set()
        await reply.client_left()

    async def call(url: str) -> bytes:
        return await whole(await pool.send(post(url), AttemptTiming(0)))

    async with FakeLLMServer(script) as server:
        calling = asyncio.create_task(call(server.url + "/"))
        await reached.wait()
        await asyncio.sleep(0.05)  # until it has come
        await asyncio.wait_for(pool.aclose(), LIMIT_S)

        with pytest.raises(lorry.ConnectionLost, match="it was closed"):
            await asyncio.wait_for(calling, LIMIT_S)
    assert (pool.num_in_use, pool.count().num_open) == (0, 0)


@pytest.mark.parametrize("kind", ["length", "chunks", "end"])
async def test_an_answer_cannot_be_read_on_when_the_pool_was_closed(pool: Pool, kind: str) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(BEGINNINGS[kind])
        await reply.client_left()

    async with FakeLLMServer(script) as server:
        response = await pool.send(post(server.url), AttemptTiming(0))
        await pool.aclose()
        with pytest.raises(lorry.ConnectionLost, match="it was closed"):
            await whole(response)

    assert pool.num_in_use == 0


@pytest.mark.parametrize("kind", ["length", "end"])
async def test_an_answer_that_begins_in_the_moment_of_closing_is_not_taken_for_whole(
    pool: Pool, kind: str
) -> None:
    reached = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        reached.set()
        await reply.client_left()

    async def call(url: str) -> bytes:
        return await whole(await pool.send(post(url), AttemptTiming(0)))

    async with FakeLLMServer(script) as server:
        calling = asyncio.create_task(call(server.url))
        await reached.wait()
        (connection,) = pool._in_use
        assert connection.protocol is not None
        connection.protocol.data_received(BEGINNINGS[kind])
        await pool.aclose()

        with pytest.raises(lorry.ConnectionLost, match="it was closed"):
            await calling
    assert pool.num_in_use == 0


async def test_a_pool_is_closed_at_once_though_a_server_does_not_read(pool: Pool) -> None:
    reached, closed = asyncio.Event(), asyncio.Event()

    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket has it
        reached.set()
        await closed.wait()

    async with raw_server(read_nothing) as url:
        sending = asyncio.create_task(pool.send(post(url, LARGE), AttemptTiming(0)))
        await reached.wait()
        await asyncio.wait_for(pool.aclose(), LIMIT_S)
        closed.set()
        with pytest.raises(lorry.ConnectionLost):
            await asyncio.wait_for(sending, LIMIT_S)


async def test_a_look_up_of_a_name_that_the_closing_of_the_pool_ends_is_no_connection(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def never(*arguments: object, **options: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(pool._connector._resolver, "resolve", never)
    calls = [
        asyncio.create_task(pool.send(post("http://slow.example/"), AttemptTiming(0)))
        for _ in range(3)
    ]
    await asked.wait()
    calls[2].cancel()
    await asyncio.sleep(0)
    await pool.aclose()

    for call in calls[:2]:
        with pytest.raises(lorry.ConnectError, match="it was closed"):
            await asyncio.wait_for(call, LIMIT_S)
    with pytest.raises(asyncio.CancelledError):
        await calls[2]


async def test_a_request_that_finds_its_pool_closed_has_reached_no_server(pool: Pool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.plain(200, b"ok")

    async with FakeLLMServer(script) as server:
        await pool.aclose()
        with pytest.raises(lorry.ConnectError):
            await pool.send(post(server.url), AttemptTiming(0))

        assert server.requests == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("is_sealed", [False, True], ids=["plain", "tls"])
async def test_a_large_request_that_was_answered_unread_takes_its_connection_with_it(
    tmp_path: Path, is_sealed: bool
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket has it
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await done.wait()

    done = asyncio.Event()
    with TlsServer(tmp_path) as tls:
        context = tls.context if is_sealed else None
        pool = Pool(tls.trusting_context())
    async with raw_server(refuse, context) as url:
        for _ in range(2):
            attempt = AttemptTiming(0)
            response = await asyncio.wait_for(pool.send(post(url, LARGE), attempt), LIMIT_S)
            assert response.status == 413
            assert await whole(response) == b"no"
            assert attempt.reused_connection is False
            assert (pool.num_in_use, pool.count().num_open) == (0, 0)
        done.set()
        await pool.aclose()


async def test_an_early_answer_is_read_while_its_request_is_still_being_written(pool: Pool) -> None:
    answer = b"y" * 2**22

    async def answer_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer[:-1])
        num_left = len(LARGE)
        while num_left:
            num_left -= len(await reader.read(2**20))
        writer.write(answer[-1:])
        await reader.read()

    async with raw_server(answer_first) as url:
        response = await pool.send(post(url, LARGE), AttemptTiming(0))
        await asyncio.sleep(0.05)  # it is read slowly
        assert await whole(response) == answer

        assert (pool.num_in_use, pool.count().num_idle) == (0, 1)


async def test_a_large_body_waits_where_it_is_while_a_server_is_slow(pool: Pool) -> None:
    largest = 0

    async def read_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal largest
        await reader.readuntil(b"\r\n\r\n")
        num_left = len(LARGE)
        while num_left:
            num_left -= len(await reader.read(2**18))
            await asyncio.sleep(0)
            for connection in pool._in_use:
                if connection.transport is not None:
                    largest = max(largest, connection.transport.get_write_buffer_size())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await reader.read()

    async with raw_server(read_slowly) as url:
        response = await pool.send(post(url, LARGE), AttemptTiming(0))
        assert await whole(response) == b"ok"

        assert 0 < largest < 2**20
        assert pool.count().num_idle == 1  # all of it was sent


@pytest.mark.parametrize("upgrade", [b"connection: upgrade\r\nupgrade: websocket\r\n", b""])
async def test_a_switch_to_another_protocol_is_an_answer_and_the_end_of_its_connection(
    pool: Pool, upgrade: bytes
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade + b"\r\n")
        await reply.client_left()

    async with FakeLLMServer(script) as server:
        for _ in range(2):
            response = await pool.send(post(server.url), AttemptTiming(0))
            assert response.status == 101
            assert await whole(response) == b""

        assert server.num_connections == 2
    assert pool.num_in_use == 0


@pytest.mark.parametrize(
    "url",
    [
        "ftp://{}/",  # whose port would be taken, and HTTP spoken to it
        "ws://{}/",
        "tcp://{}/",
        "http://user@{}/",
        "http://user:secret@{}/",
        "http://a..b/",
        "http://" + "a" * 64 + ".example/",
    ],
)
async def test_an_address_that_would_not_be_understood_is_refused_before_anything_is_sent(
    pool: Pool, url: str
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.plain(200, b"ok")

    async with FakeLLMServer(script) as server:
        with pytest.raises(lorry.ConfigError) as caught:
            await pool.send(post(url.format(server.url[7:])), AttemptTiming(0))

        assert server.num_connections == 0
    assert "secret" not in str(caught.value)


async def test_a_header_that_cannot_be_sent_opens_no_connection_and_is_not_in_the_error(
    pool: Pool,
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.plain(200, b"ok")

    async with FakeLLMServer(script) as server:
        for value in ("a\nsecret", "secret \ud800"):
            with pytest.raises(lorry.ConfigError) as caught:
                await pool.send(post(server.url).replace(headers={"x": value}), AttemptTiming(0))
            assert "secret" not in str(caught.value)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None

        assert server.num_connections == 0


class HeldConnection:
    def add_callback(self, callback: Callable[[], None]) -> None:
        self.release = callback


class SlowTransport:
    """Has taken all that it was given, and will take no more for now."""

    def __init__(self, protocol: ResponseHandler) -> None:
        self.sizes: list[int] = []
        self.is_aborted = False
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self._protocol.pause_writing()

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def get_extra_info(self, name: str) -> None: ...


async def test_a_body_is_written_no_further_when_its_connection_is_given_back() -> None:
    protocol, connection = ResponseHandler(asyncio.get_running_loop()), HeldConnection()
    transport: Any = SlowTransport(protocol)
    protocol.connection_made(transport)
    write_in_pieces(connection, protocol, LARGE)  # type: ignore[arg-type]  # a fake
    await asyncio.sleep(0)
    assert transport.sizes == [PIECE_BYTES]
    assert not protocol.should_close

    connection.release()
    await asyncio.sleep(0)
    protocol.resume_writing()
    await asyncio.sleep(0)

    assert transport.sizes == [PIECE_BYTES]
    assert transport.is_aborted
    assert protocol.should_close
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_body_that_was_written_leaves_its_connection_as_it_is() -> None:
    protocol, connection = ResponseHandler(asyncio.get_running_loop()), HeldConnection()
    transport: Any = SlowTransport(protocol)
    protocol.connection_made(transport)
    write_in_pieces(connection, protocol, b"x" * 3)  # type: ignore[arg-type]  # a fake
    await asyncio.sleep(0)
    protocol.resume_writing()
    await asyncio.sleep(0)
    connection.release()

    assert transport.sizes == [3]
    assert not transport.is_aborted
    assert not protocol.should_close


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the connection that its loop left open
def test_the_pool_of_a_loop_that_was_closed_without_a_word_is_not_kept() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.plain(200, b"ok")

    async def call(url: str) -> None:
        assert await whole(await transport.send(post(url), attempt=AttemptTiming(0))) == b"ok"

    transport = AiohttpTransport()
    with FakeLLMServer(script) as server:
        gone = asyncio.new_event_loop()
        gone.run_until_complete(call(server.url))
        gone.close()
        with asyncio.Runner() as runner:
            runner.run(call(server.url))
            loop = runner.get_loop()
            assert list(transport._pools) == list(transport._keepers) == [loop]
            runner.run(transport.aclose())
            assert not transport._pools
            assert not transport._keepers
            runner.run(call(server.url))
            assert list(transport._pools) == [loop]
    assert not transport._pools
    assert not transport._keepers
