"""A deadline holds whatever goes wrong, and its error names what used the time up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Literal

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion
from tests.support.loop_lag import LoopLag

STORMY = lorry.RetryPolicy(max_attempts=1_000_000, base_s=0.001, cap_s=0.01, budget=None)
EVENT = b'data: {"id":"","created":1,"model":"m","choices":[{"index":0,"text":"a"}]}\n\n'
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
SHORT_S = 0.3
# for a machine that is busy with other things; the promise itself is tested on its own
SLACK_S = 2.0


async def say_nothing(request: ReceivedRequest, reply: Reply) -> None:
    await reply.client_left()


async def trickle_headers(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(b"HTTP/1.1 200 OK\r\nx-long: ")
    await _repeat(reply, b"x")


async def trickle_an_error(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(b"HTTP/1.1 503 Full\r\ncontent-length: 100000\r\n\r\n")
    await _repeat(reply, b"x")


async def trickle_a_body(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    await _repeat(reply, b" ")


async def stop_in_a_body(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{")
    await reply.client_left()


async def stop_before_the_first_event(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(STREAM_HEAD)
    await reply.client_left()


async def trickle_an_event(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(STREAM_HEAD + b"data: ")
    await _repeat(reply, b"x")


async def send_comments(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(STREAM_HEAD)
    await _repeat(reply, b": keep-alive\n\n")


async def send_tokens(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(STREAM_HEAD)
    await _repeat(reply, EVENT)


async def flood_with_tokens(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(STREAM_HEAD)
    await _repeat(reply, EVENT * 20, pause_s=0)


async def stop_after_a_token(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(STREAM_HEAD + EVENT)
    await reply.client_left()


async def be_full(request: ReceivedRequest, reply: Reply) -> None:
    await reply.json(429, {"error": "full"}, retry_after="30")


async def be_full_for_a_moment(request: ReceivedRequest, reply: Reply) -> None:
    await reply.json(503, {"error": "full"}, retry_after_ms="1")


async def cut_the_stream(request: ReceivedRequest, reply: Reply) -> None:
    await reply.raw(STREAM_HEAD + EVENT)
    reply.cut()


async def drop_the_connection(request: ReceivedRequest, reply: Reply) -> None:
    reply.cut()


async def _repeat(reply: Reply, data: bytes, *, pause_s: float = 0.01) -> None:
    leaving = asyncio.ensure_future(reply.client_left())
    with contextlib.suppress(ConnectionError):
        while not leaving.done():
            await reply.raw(data)
            await asyncio.sleep(pause_s)
    await leaving


@dataclass(frozen=True)
class Fault:
    """What a server does, how the call is made, and what must come of it.

    `phase` is that of the DeadlineExceeded; None: the call fails before its deadline, with `error`.
    """

    script: Callable[[ReceivedRequest, Reply], Awaitable[None]]
    mode: Literal["generate", "stream"]
    phase: str | None
    error: type[lorry.ClientError] = lorry.DeadlineExceeded


FAULTS = {
    "accepted but silent": Fault(say_nothing, "generate", "headers"),
    "a silent stream": Fault(say_nothing, "stream", "headers"),
    "slow headers": Fault(trickle_headers, "generate", "headers"),
    "a slow error": Fault(trickle_an_error, "generate", "headers"),
    "a slow body": Fault(trickle_a_body, "generate", "total"),
    "half a body": Fault(stop_in_a_body, "generate", "total"),
    "no event": Fault(stop_before_the_first_event, "stream", "first_token"),
    "a trickle of bytes": Fault(trickle_an_event, "stream", "first_token"),
    "endless comments": Fault(send_comments, "stream", "first_token"),
    "endless tokens": Fault(send_tokens, "stream", "total"),
    "a flood of tokens": Fault(flood_with_tokens, "stream", "total"),
    "a stream that stops": Fault(stop_after_a_token, "stream", "total"),
    "a long Retry-After": Fault(be_full, "generate", None, lorry.Overloaded),
    "a cut stream": Fault(cut_the_stream, "stream", None, lorry.StreamTruncated),
    "a dropped connection": Fault(drop_the_connection, "generate", None, lorry.ConnectionLost),
}


async def outcome(
    client: lorry.AsyncClient, mode: str, *, deadline: float, prompt: str = "Hi"
) -> tuple[lorry.ClientError | lorry.Generation, float]:
    """What came of a call, and how many seconds it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        if mode == "stream":
            result = await client.stream(prompt, deadline=deadline).final()
        else:
            result = await client.generate(prompt, deadline=deadline)
    except lorry.ClientError as error:
        return error, loop.time() - started
    return result, loop.time() - started


@pytest.fixture
async def black_hole() -> AsyncIterator[str]:
    """An address that takes no connection: a listener whose backlog is full."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
async def unread() -> AsyncIterator[str]:
    """An address that takes a connection and then reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{placeholder.getsockname()[1]}"


async def never_a_key() -> str:
    await asyncio.sleep(30)
    return "too late"


@pytest.mark.parametrize("name", FAULTS)
async def test_a_deadline_holds(name: str) -> None:
    fault = FAULTS[name]
    async with (
        FakeLLMServer(fault.script) as server,
        lorry.AsyncClient(server.url, retry=STORMY) as client,
        LoopLag() as lag,
    ):
        error, took_s = await outcome(client, fault.mode, deadline=SHORT_S)

    assert type(error) is fault.error
    assert took_s < SHORT_S + 0.1 + lag.longest_s
    if isinstance(error, lorry.DeadlineExceeded):
        assert error.phase == fault.phase
        assert error.limit_s == SHORT_S
        assert took_s >= SHORT_S - 0.01


async def test_a_deadline_holds_for_a_connection_that_is_not_made(black_hole: str) -> None:
    async with lorry.AsyncClient(black_hole, retry=STORMY) as client:
        error, took_s = await outcome(client, "generate", deadline=SHORT_S)

    assert isinstance(error, lorry.DeadlineExceeded)
    assert error.phase == "connect"
    assert took_s < SHORT_S + SLACK_S


async def test_a_deadline_ends_a_storm_of_retries() -> None:
    async with (
        FakeLLMServer(be_full_for_a_moment) as server,
        lorry.AsyncClient(server.url, retry=STORMY) as client,
    ):
        error, took_s = await outcome(client, "generate", deadline=SHORT_S)

    assert isinstance(error, lorry.ClientError)
    if isinstance(error, lorry.DeadlineExceeded):  # while it waited for one more refusal
        assert error.phase in ("connect", "headers")
    else:
        assert isinstance(error, lorry.Overloaded)
        assert error.not_retried == "deadline"
    assert {type(cause) for cause in error.causes} == {lorry.Overloaded}
    assert took_s < SHORT_S + SLACK_S


async def test_a_deadline_holds_for_a_handshake_that_is_not_answered() -> None:
    async with FakeLLMServer(say_nothing) as server:
        url = server.url.replace("http:", "https:")
        async with lorry.AsyncClient(url, retry=STORMY) as client:
            error, took_s = await outcome(client, "generate", deadline=SHORT_S)

    assert isinstance(error, lorry.DeadlineExceeded)
    assert error.phase == "connect"
    assert took_s < SHORT_S + SLACK_S


async def test_a_deadline_ends_the_attempts_at_a_server_that_refuses_connections(
    nobody: str,
) -> None:
    async with lorry.AsyncClient(nobody, retry=STORMY) as client:
        error, took_s = await outcome(client, "generate", deadline=SHORT_S)

    assert isinstance(error, lorry.ConnectError)
    assert error.not_retried == "deadline"
    assert error.attempts > 3
    assert took_s < SHORT_S + SLACK_S


async def test_a_stream_that_is_whole_but_does_not_end_is_a_success_within_the_deadline() -> None:
    async def never_end(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await asyncio.sleep(0.1)
        await reply.events(completion("a", finish_reason="stop"), "[DONE]")
        await reply.client_left()

    async with (
        FakeLLMServer(never_end) as server,
        lorry.AsyncClient(server.url) as client,
        LoopLag() as lag,
    ):
        result, took_s = await outcome(client, "stream", deadline=0.2)

    assert isinstance(result, lorry.Generation)
    assert took_s < 0.2 + 0.1 + lag.longest_s


async def test_two_seconds_are_never_more_than_two_seconds_and_a_tenth(
    black_hole: str, unread: str, nobody: str
) -> None:
    async with AsyncExitStack() as stack:
        calls = []
        for fault in FAULTS.values():
            # a flood leaves the loop no time for the others
            if fault.script is not flood_with_tokens:
                server = await stack.enter_async_context(FakeLLMServer(fault.script))
                client = await stack.enter_async_context(lorry.AsyncClient(server.url))
                calls.append(outcome(client, fault.mode, deadline=2))
        silent = await stack.enter_async_context(FakeLLMServer(say_nothing))
        full = await stack.enter_async_context(FakeLLMServer(be_full_for_a_moment))
        held = lorry.Limit(1)
        await held.acquire(adapter=None, num_tokens=1)
        for client in (
            lorry.AsyncClient(black_hole),
            lorry.AsyncClient(silent.url.replace("http:", "https:")),
            lorry.AsyncClient(silent.url, limit=held),
            lorry.AsyncClient(silent.url, api_key=never_a_key),
            lorry.AsyncClient(unread),
            lorry.AsyncClient(full.url, retry=STORMY),
            lorry.AsyncClient(nobody, retry=STORMY),
        ):
            await stack.enter_async_context(client)
            prompt = "x" * 2**24 if client.endpoints == (unread,) else "Hi"
            calls.append(outcome(client, "generate", deadline=2, prompt=prompt))
        lag = await stack.enter_async_context(LoopLag())
        outcomes = await asyncio.gather(*calls)

    phases = [getattr(error, "phase", None) for error, _ in outcomes]
    expected = [fault.phase for fault in FAULTS.values() if fault.script is not flood_with_tokens]
    rest = ["connect", "connect", "queue", "queue", "headers"]
    assert phases[:-2] == [*expected, *rest]
    # attempts that fail at once go on until there is no time for another
    (at_full, _), (at_nobody, _) = outcomes[-2:]
    assert isinstance(at_full, (lorry.Overloaded, lorry.DeadlineExceeded))
    assert isinstance(at_nobody, lorry.ConnectError)
    assert at_nobody.not_retried == "deadline"
    # what the loop itself was late by is not the client's to prevent
    assert max(took_s for _, took_s in outcomes) <= 2.1 + lag.longest_s
