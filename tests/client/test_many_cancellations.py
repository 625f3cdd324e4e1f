"""Thousands of calls, cancelled at random: nothing is left of them, here or at the server."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest

import lorry
from lorry.transports.aiohttp_pool import MAX_JOINED_BODY_BYTES
from lorry.transports.base import WireRequest, WireResponse
from tests.support.black_hole import black_hole
from tests.support.cancellation_storm import NUM_PLACES, num_sockets_to, open_files, storm
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion
from tests.support.watchful_server import WatchfulServer

NUM_CALLS = 10_000
# in each of two loops, in a process of its own
NUM_CALLS_ELSEWHERE = 300


def test_thousands_of_random_cancellations_leave_nothing_behind() -> None:
    account = asyncio.run(storm(NUM_CALLS, seed=11, limit=lorry.Limit(NUM_PLACES)))

    account.check()
    # every stage was met, how often depends on the machine; the retry's sleep has its own count
    assert min(account.stages[stage] for stage in ("queue", "connect", "headers", "tokens")) > 0
    assert account.stats.num_retries > 0
    assert account.outcomes["finished"] > 0
    assert account.num_at_server > NUM_CALLS / 100


@pytest.mark.parametrize(
    ("loop", "flags"),
    [("asyncio", ()), ("uvloop", ()), ("asyncio", ("-X", "dev", "-W", "error"))],
    ids=["asyncio", "uvloop", "asyncio in development mode"],
)
def test_storms_in_two_loops_in_turn_leave_nothing_behind(
    loop: str, flags: tuple[str, ...]
) -> None:
    command = ["-m", "tests.support.cancellation_storm", loop, str(NUM_CALLS_ELSEWHERE), "23"]
    done = subprocess.run(
        [sys.executable, *flags, *command], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.stderr == ""
    assert len(done.stdout.split()) == 2


AFTER_FORK = """
import asyncio, os, sys
import lorry
from tests.support.cancellation_storm import storm
from tests.support.fake_llm_server import FakeLLMServer, completion

async def script(request, reply):
    await reply.json(200, completion(str(os.getpid()), finish_reason="stop"))

async def fork_while_connections_are_open():
    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, limit=2)
        await client.generate("before")
        child = os.fork()
        if child == 0:
            os._exit(use_in_child(client))
        status = await asyncio.to_thread(os.waitpid, child, 0)
        after = await client.generate("after")
        assert after.text == str(os.getpid())
        assert after.timing.reused_connection is True, "the child has closed the parent's connection"
        await client.aclose()
        return os.waitstatus_to_exitcode(status[1])

def use_in_child(client):
    async def use():
        first = await client.generate("in the child")
        again = await client.generate("in the child")
        assert first.timing.reused_connection is False
        assert again.timing.reused_connection is True
        (await storm(200, seed=5, limit=lorry.Limit(20))).check()
        await client.aclose()
    try:
        asyncio.run(use())
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        return 1
    return 0

print(asyncio.run(fork_while_connections_are_open()))
"""


def test_a_client_works_in_a_forked_child_and_leaves_the_parents_connections_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AFTER_FORK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stderr, done.stdout.strip()) == ("", "0")


class Stopping:
    """Answers up to a stage, and says when it is reached."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.reached = asyncio.Event()

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if self._stage == "retry":
            await reply.json(503, {"error": "full"}, retry_after="30")
        if self._stage == "body":
            await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
        if self._stage in ("first token", "tokens"):
            await reply.start_stream()
        if self._stage == "tokens":
            await reply.events(completion("a", token_ids=[1]))
        self.reached.set()
        await reply.client_left()


@pytest.mark.parametrize(
    ("stage", "is_streamed"),
    [
        *((stage, False) for stage in ("headers", "body", "retry")),
        *((stage, True) for stage in ("headers", "first token", "tokens", "retry")),
    ],
)
async def test_the_socket_is_closed_when_the_cancellation_leaves_the_call(
    stage: str, is_streamed: bool
) -> None:
    script = Stopping(stage)
    sockets: list[int] = []

    async def call(client: lorry.AsyncClient, port: int) -> None:
        try:
            if is_streamed:
                await client.stream("Hi").final()
            else:
                await client.generate("Hi")
        except asyncio.CancelledError:
            sockets.append(num_sockets_to(port))
            raise

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        task = asyncio.create_task(call(client, server.port))
        await script.reached.wait()
        await asyncio.sleep(0.05)  # until the client has read what was sent
        open_before = num_sockets_to(server.port)
        task.cancel()
        await asyncio.wait([task])

    assert task.cancelled()
    assert open_before == 1
    assert client.stats().num_retries == (stage == "retry")
    # a connection that an answer was read from is not the retry's, and stays in the pool
    assert sockets == [1 if stage == "retry" else 0]


async def test_the_socket_is_closed_when_a_call_is_cancelled_that_is_still_being_sent() -> None:
    started = asyncio.Event()

    async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket has it
        started.set()
        await asyncio.sleep(30)

    sockets: list[int] = []
    server = await asyncio.start_server(never_read, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def call(client: lorry.AsyncClient, size: int) -> None:
        try:
            await client.generate("x" * size)
        except asyncio.CancelledError:
            sockets.append(num_sockets_to(port))
            raise

    client = lorry.AsyncClient(f"http://127.0.0.1:{port}")
    for size in (MAX_JOINED_BODY_BYTES - 2_000, 16 * 2**20):
        started.clear()
        task = asyncio.create_task(call(client, size))
        await started.wait()
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
    await client.aclose()
    server.close()

    assert sockets == [0, 0]


async def test_the_socket_is_closed_when_a_call_is_cancelled_that_is_connecting() -> None:
    left: list[frozenset[tuple[int, str]]] = []

    async def call() -> None:
        try:
            await client.generate("Hi")
        except asyncio.CancelledError:
            left.append(open_files() - before)
            raise

    with black_hole() as url:
        client = lorry.AsyncClient(url)
        await client.warmup()
        before = open_files()
        task = asyncio.create_task(call())
        for _ in range(1_000):  # until it has begun to connect
            await asyncio.sleep(0.01)
            if opened := open_files() - before:
                break
        task.cancel()
        await asyncio.wait([task])
        await client.aclose()

    assert [name.partition(":")[0] for _, name in opened] == ["socket"]
    assert left == [frozenset()]


async def test_cancelling_in_the_queue_leaves_the_line_and_reaches_no_server() -> None:
    async with WatchfulServer(seed=1) as server:
        limit = lorry.Limit(1)
        client = lorry.AsyncClient(server.url, limit=limit)
        held = await limit.acquire(adapter=None, num_tokens=1)
        task = asyncio.create_task(client.generate("Hi"))
        await asyncio.sleep(0)
        queued = client.stats().num_queued, limit.num_queued
        task.cancel()
        await asyncio.wait([task])
        held.release(outcome=None, timing=lorry.Timing(0, 0))

    assert queued == (1, 1)
    assert task.cancelled()
    assert server.num_requests == 0
    assert (limit.num_queued, limit.num_in_flight) == (0, 0)
    assert client.stats().num_cancelled == 1


class Silence:
    """A transport that sends nothing and waits for ever."""

    async def send(self, request: WireRequest, *, attempt: lorry.AttemptTiming) -> WireResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def aclose(self) -> None: ...


def test_a_loop_that_is_closed_under_a_call_takes_its_permit_along() -> None:
    limit = lorry.Limit(1)
    client = lorry.AsyncClient("http://x", limit=limit, transport=Silence())

    async def begin() -> asyncio.Task[lorry.Generation]:
        task = asyncio.create_task(client.generate("Hi"))
        await asyncio.sleep(0)
        assert limit.num_in_flight == 1
        return task

    async def count() -> int:
        permit = await limit.acquire(adapter=None, num_tokens=1)
        permit.release(outcome=None, timing=lorry.Timing(0, 0))
        return limit.num_in_flight

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(begin())
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    del task
    gc.collect()

    assert client.stats().num_in_flight == 0
    assert asyncio.run(count()) == 0
