"""The heartbeat: what it sees of a loop that is kept busy, and that it stops."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import lorry
from lorry.loop_lag import BEAT_S, LoopLag, lag_of
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion
from tests.support.jumping_loop import JumpingLoop, run_jumping

Run = Callable[[Coroutine[Any, Any, Any]], Any]

BLOCK_S = 0.1


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs on a loop whose seconds pass only where a test lets them; beats are stamped by it."""
    monkeypatch.setattr(time, "perf_counter", lambda: asyncio.get_running_loop().time())
    return run_jumping


def block(duration_s: float = BLOCK_S) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.block(duration_s)


def test_a_block_counts_for_the_calls_that_were_in_flight_and_for_no_others(run: Run) -> None:
    async def main() -> tuple[float, float, float]:
        lag = LoopLag()
        over = lag.leave(lag.enter())
        during = lag.enter()
        await asyncio.sleep(2 * BEAT_S)
        block()
        await asyncio.sleep(2 * BEAT_S)
        after = lag.enter()
        await asyncio.sleep(3 * BEAT_S)
        return over, lag.leave(during), lag.leave(after)

    over, during, after = run(main())

    assert over < BLOCK_S / 2
    assert during >= BLOCK_S - BEAT_S
    assert after < BLOCK_S / 2


def test_a_block_in_which_a_call_begins_and_ends_is_seen_too(run: Run) -> None:
    async def main() -> float:
        lag = LoopLag()
        entered = lag.enter()
        block()
        return lag.leave(entered)

    assert run(main()) >= BLOCK_S - BEAT_S


def test_what_was_late_before_a_call_began_is_not_its_own(run: Run) -> None:
    async def main() -> tuple[float, float]:
        lag = LoopLag()
        first = lag.enter()
        block()
        second = lag.enter()
        return lag.leave(second), lag.leave(first)

    second, first = run(main())

    assert second < BLOCK_S / 2
    assert first >= BLOCK_S - BEAT_S


def test_of_many_beats_only_those_are_kept_that_no_later_one_exceeded(run: Run) -> None:
    async def main() -> tuple[list[float], float]:
        lag = LoopLag()
        entered = lag.enter()
        for pause_s in (0.03, 0.02, 0.0):
            block(pause_s)
            await asyncio.sleep(2 * BEAT_S)
        return [late for _, late in lag._beats], lag.leave(entered)

    lateness, worst = run(main())

    assert lateness == sorted(lateness, reverse=True)
    assert worst >= 0.03 - BEAT_S


def test_the_beat_stops_when_no_call_is_in_flight(run: Run) -> None:
    async def main() -> LoopLag:
        lag = LoopLag()
        lag.leave(lag.enter())
        await asyncio.sleep(3 * BEAT_S)
        return lag

    lag = run(main())

    assert lag._due_at is None
    assert lag._beats == []


def test_a_loop_that_is_gone_is_not_kept() -> None:
    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        lag_of(loop).enter()
        return weakref.ref(loop)

    loop = asyncio.run(main())
    gc.collect()

    assert loop() is None


async def test_a_call_during_which_the_loop_was_blocked_says_so() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await asyncio.sleep(0.02)
        time.sleep(BLOCK_S)  # noqa: ASYNC251 - the block is what is to be seen
        await reply.json(200, completion("x", finish_reason="stop"))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.generate("Hi")
        stats = client.stats()

    assert generation.timing.loop_lag_max is not None
    assert generation.timing.loop_lag_max >= BLOCK_S - BEAT_S - 0.005
    assert stats.loop_lag_max == generation.timing.loop_lag_max
