"""Whoever leaves a call closes its connection, and the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion


class Watched:
    """A script that stops at a stage, says so, and then notes that the client has left."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.reached = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if self._stage != "headers":
            await reply.start_stream()
        if self._stage == "tokens":
            await reply.events(completion("Once", token_ids=[1]))
        self.reached.set()
        await reply.client_left()
        self.left.set()


@pytest.mark.parametrize("stage", ["headers", "first token", "tokens"])
async def test_cancelling_the_task_closes_a_stream(stage: str) -> None:
    script = Watched(stage)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi")
        task = asyncio.create_task(stream.text())
        await script.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await script.left.wait()

    assert script.left.is_set()
    with pytest.raises(lorry.StreamCancelled, match="task that read"):
        await stream.final()


async def test_cancelling_the_task_closes_a_generation() -> None:
    script = Watched("headers")
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        task = asyncio.create_task(client.generate("Hi"))
        await script.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await script.left.wait()

    assert script.left.is_set()


@pytest.mark.parametrize("stage", ["headers", "first token", "tokens"])
async def test_cancel_from_another_task_raises_stream_cancelled_in_the_reader(stage: str) -> None:
    script = Watched(stage)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi")
        task = asyncio.create_task(stream.text())
        await script.reached.wait()
        stream.cancel("enough")
        with pytest.raises(lorry.StreamCancelled, match="enough") as caught:
            await task
        await script.left.wait()

    assert caught.value.request_id == stream.request_id


async def test_cancel_while_nobody_reads_closes_the_connection_at_once() -> None:
    script = Watched("tokens")
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi")
        first = await anext(stream)
        stream.cancel()
        await script.left.wait()
        with pytest.raises(lorry.StreamCancelled) as caught:
            await anext(stream)

    assert first.text == "Once"
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Once"


async def test_closing_a_stream_that_another_task_reads_ends_its_reading() -> None:
    script = Watched("tokens")
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi")
        await anext(stream)
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        await stream.aclose()
        await script.left.wait()
        with pytest.raises(lorry.StreamCancelled, match="closed before its end"):
            await task

    assert client.stats().num_in_flight == 0
    assert client.stats().num_cancelled == 1


async def test_cancelled_stream_that_was_never_sent_stays_unsent() -> None:
    async with (
        FakeLLMServer(Watched("tokens")) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        stream = client.stream("Hi")
        stream.cancel()
        with pytest.raises(lorry.StreamCancelled):
            await stream.final()

    assert server.requests == []


async def test_leaving_the_block_early_closes_the_connection() -> None:
    script = Watched("tokens")
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        async with client.stream("Hi") as stream:
            await anext(stream)
        await script.left.wait()
        await stream.aclose()

    assert stream.partial.text == "Once"


async def test_cancel_after_the_end_changes_nothing() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.stream(completion("x", finish_reason="stop"))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi")
        await stream.final()
        stream.cancel()
        again = await stream.final()

    assert again.text == "x"


async def test_random_cancellations_leave_nothing_behind() -> None:
    open_replies = 0
    all_closed = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        nonlocal open_replies
        open_replies += 1
        all_closed.clear()
        try:
            await reply.start_stream()
            for i in range(20):
                await reply.events(completion("x", token_ids=[i]))
                await asyncio.sleep(0)
            await reply.client_left()
        finally:
            open_replies -= 1
            if not open_replies:
                all_closed.set()

    draw = random.Random(5)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        tasks = [asyncio.create_task(client.stream("Hi").text()) for _ in range(150)]
        for task in draw.sample(tasks, len(tasks)):
            for _ in range(draw.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if open_replies:
            await all_closed.wait()
        ours = [task for task in asyncio.all_tasks() if task in tasks]

    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert ours == []


async def test_a_deadline_of_asyncio_around_a_call_works_as_ever() -> None:
    script = Watched("tokens")
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.stream("Hi").final()
        await script.left.wait()

    assert script.left.is_set()


class SlowToLeave:
    """A transport that never answers, and needs some turns of the loop to close what it opened."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.is_closed = False

    async def send(
        self, request: lorry.WireRequest, *, attempt: lorry.AttemptTiming
    ) -> lorry.WireResponse:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.is_closed = True
        raise AssertionError

    async def aclose(self) -> None: ...


async def test_closing_a_stream_that_another_task_opens_returns_when_that_is_undone() -> None:
    transport = SlowToLeave()
    stream = lorry.AsyncClient("http://x", transport=transport).stream("Hi")
    task = asyncio.create_task(stream.text())
    await transport.began.wait()
    await stream.aclose()

    assert transport.is_closed
    with pytest.raises(lorry.StreamCancelled):
        await task
