"""Time limits: each names what used the time up, and closes the connection."""

from __future__ import annotations

import asyncio

import pytest

import lorry
from tests.support.black_hole import black_hole
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

TICK_S = 0.03


class Stalling:
    """Answers up to a point, or keeps sending comments, and then waits for the client to leave."""

    def __init__(self, point: str) -> None:
        self._point = point
        self.left = asyncio.Event()

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if self._point != "headers":
            await reply.start_stream()
        if self._point == "idle":
            await reply.events(completion("a", token_ids=[1]))
        if self._point == "comments":
            await self._send_until_left(reply, b": keep-alive\n\n")
        if self._point == "tokens":
            await self._send_until_left(
                reply,
                b'data: {"id":"","created":1,"model":"m","choices":[{"index":0,"text":"a"}]}\n\n',
            )
        await reply.client_left()
        self.left.set()

    async def _send_until_left(self, reply: Reply, data: bytes) -> None:
        leaving = asyncio.ensure_future(reply.client_left())
        while not leaving.done():
            await reply.chunk(data)
            await asyncio.wait([leaving], timeout=TICK_S / 5)
        self.left.set()


@pytest.mark.parametrize(
    ("point", "limits", "phase"),
    [
        ("headers", lorry.Timeout(total=TICK_S), "headers"),
        ("first token", lorry.Timeout(total=TICK_S), "first_token"),
        ("first token", lorry.Timeout(first_token=TICK_S), "first_token"),
        ("comments", lorry.Timeout(first_token=TICK_S, idle=30), "first_token"),
        ("idle", lorry.Timeout(idle=TICK_S), "idle"),
        ("idle", lorry.Timeout(first_token=TICK_S / 2, idle=TICK_S), "idle"),
        ("idle", lorry.Timeout(total=TICK_S), "total"),
        ("tokens", lorry.Timeout(total=TICK_S, idle=30), "total"),
    ],
)
async def test_stream_that_stalls_says_where(point: str, limits: lorry.Timeout, phase: str) -> None:
    script = Stalling(point)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            await client.stream("Hi", timeout=limits).final()
        await script.left.wait()

    assert caught.value.phase == phase
    assert caught.value.limit_s in (TICK_S, TICK_S / 2)
    assert caught.value.attempts == 1


async def test_generation_that_stalls_says_so_and_the_server_sees_it_leave() -> None:
    script = Stalling("headers")
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.DeadlineExceeded, match="waiting for the answer") as caught:
            await client.generate("Hi", deadline=TICK_S)
        await script.left.wait()

    assert caught.value.phase == "headers"
    assert caught.value.retryable is False


async def test_part_that_came_before_the_deadline_is_kept() -> None:
    script = Stalling("idle")
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            await client.generate("Hi", token_times=True, deadline=TICK_S)

    assert caught.value.partial is not None
    assert caught.value.partial.text == "a"
    assert caught.value.timing is not None
    assert caught.value.timing.ttft is not None


@pytest.mark.parametrize(
    "limits", [lorry.Timeout(connect=TICK_S), lorry.Timeout(total=TICK_S, connect=None)]
)
async def test_time_that_goes_into_connecting_is_called_connecting(
    limits: lorry.Timeout,
) -> None:
    with black_hole() as url:
        client = lorry.AsyncClient(url)
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            await client.generate("Hi", timeout=limits)
        await client.aclose()

    assert caught.value.phase == "connect"


async def test_deadline_covers_all_attempts() -> None:
    async def refuse(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(503, {"error": "full"}, retry_after="30")

    async with FakeLLMServer(refuse) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.Overloaded) as caught:
            await client.generate("Hi", deadline=5)

    assert caught.value.attempts == 1
    assert caught.value.retry_after == 30


async def test_smaller_of_deadline_and_timeout_counts() -> None:
    async with (
        FakeLLMServer(Stalling("headers")) as server,
        lorry.AsyncClient(server.url, timeout=TICK_S) as client,
    ):
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            await client.generate("Hi", deadline=60)

    assert caught.value.limit_s == TICK_S
