"""`Limit`: places, those who wait for them, and what cancelling leaves behind."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref

import pytest

import lorry
from lorry.limits.fixed import Place

NOTHING = lorry.Timing(created_ns=0, intended_ns=0)


def free(permit: lorry.Permit) -> None:
    permit.release(outcome=None, timing=NOTHING)


async def settle() -> None:
    """Let everything happen that is due."""
    for _ in range(5):
        await asyncio.sleep(0)


class Caller:
    """Asks for a permit in a task, and keeps it."""

    def __init__(self, limit: lorry.Limiter, adapter: str | None = None, tokens: int = 1) -> None:
        self.adapter = adapter
        self.task = asyncio.create_task(limit.acquire(adapter=adapter, num_tokens=tokens))

    @property
    def is_in(self) -> bool:
        return self.task.done()

    def free(self) -> None:
        free(self.task.result())


async def test_only_so_many_are_in_and_the_next_is_who_asked_first() -> None:
    limit = lorry.Limit(2)
    callers = [Caller(limit) for _ in range(5)]
    await settle()
    at_first = [caller.is_in for caller in callers]
    callers[1].free()
    await settle()

    assert at_first == [True, True, False, False, False]
    assert [caller.is_in for caller in callers] == [True, True, True, False, False]
    assert (limit.num_in_flight, limit.num_queued) == (2, 2)
    for caller in callers[3:]:
        caller.task.cancel()


async def test_a_permit_that_is_given_back_twice_is_one_place() -> None:
    limit = lorry.Limit(1)
    permit = await limit.acquire(adapter=None, num_tokens=1)
    free(permit)
    free(permit)
    callers = [Caller(limit), Caller(limit)]
    await settle()

    assert [caller.is_in for caller in callers] == [True, False]
    callers[1].task.cancel()


async def test_a_waiter_that_is_cancelled_leaves_its_place_in_the_line() -> None:
    limit = lorry.Limit(1)
    first, second, third = (Caller(limit) for _ in range(3))
    await settle()
    second.task.cancel()
    await settle()
    queued = limit.num_queued
    first.free()
    await settle()

    assert queued == 1
    assert third.is_in
    assert limit.num_queued == 0


async def test_a_waiter_that_is_cancelled_in_the_moment_of_its_turn_passes_it_on() -> None:
    limit = lorry.Limit(1)
    first, second, third = (Caller(limit) for _ in range(3))
    await settle()
    first.free()
    second.task.cancel()  # its turn has come, and it has not run since
    await settle()

    assert second.task.cancelled()
    assert third.is_in
    assert limit.num_in_flight == 1


async def test_a_waiter_that_is_being_cancelled_when_a_place_comes_free_passes_it_on() -> None:
    limit = lorry.Limit(1)
    first, second, third = (Caller(limit) for _ in range(3))
    await settle()
    second.task.cancel()
    first.free()
    await settle()

    assert second.task.cancelled()
    assert third.is_in
    assert limit.num_in_flight == 1


async def test_an_adapter_that_has_its_share_is_passed_over_and_keeps_its_order() -> None:
    limit = lorry.Limit(3, per_adapter=2)
    pirates = [Caller(limit, "pirate") for _ in range(4)]
    await settle()
    bard = Caller(limit, "bard")
    await settle()
    at_first = [caller.is_in for caller in pirates]
    late_bard = Caller(limit, "bard")
    await settle()
    pirates[0].free()
    await settle()
    after_one = [caller.is_in for caller in pirates]
    pirates[1].free()
    await settle()

    assert at_first == [True, True, False, False]
    assert bard.is_in
    assert after_one == [True, True, True, False]  # who is older than the late bard
    assert not late_bard.is_in
    assert pirates[3].is_in


async def test_one_who_is_passed_over_and_cancelled_leaves_nothing_behind() -> None:
    limit = lorry.Limit(8, per_adapter=1)
    first, second, third = (Caller(limit, "pirate") for _ in range(3))
    await settle()
    second.task.cancel()
    await settle()
    first.free()
    await settle()

    assert third.is_in
    assert (limit.num_in_flight, limit.num_queued) == (1, 0)


async def test_random_callers_and_cancellations_lose_no_place() -> None:
    draw = random.Random(3)
    for fair in (False, True):
        limit = lorry.Limit(4, per_adapter=2, fair=fair)

        async def call(adapter: str, limit: lorry.Limit = limit) -> None:
            permit = await limit.acquire(adapter=adapter, num_tokens=draw.randrange(1, 50))
            try:
                assert limit.num_in_flight <= 4
                for _ in range(draw.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                free(permit)

        tasks = [asyncio.create_task(call(draw.choice("abc"))) for _ in range(600)]
        for task in draw.sample(tasks, 300):
            if draw.random() < 0.3:
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert not any(task.exception() for task in tasks if not task.cancelled())
        assert (limit.num_in_flight, limit.num_queued) == (0, 0)
        assert [gate.num_lanes for gate in limit._gates.values()] == [0]


def test_one_limit_serves_loops_in_turn_and_keeps_nothing_of_those_that_are_closed() -> None:
    limit = lorry.Limit(1)

    async def leave_a_mess() -> weakref.ref[asyncio.AbstractEventLoop]:
        await limit.acquire(adapter=None, num_tokens=1)
        Caller(limit)
        await settle()
        return weakref.ref(asyncio.get_running_loop())

    async def use() -> int:
        free(await limit.acquire(adapter=None, num_tokens=1))
        return limit.num_queued

    old_loop = asyncio.run(leave_a_mess())
    queued = asyncio.run(use())
    gc.collect()

    assert queued == 0
    assert old_loop() is None


def test_a_permit_of_a_loop_that_is_closed_can_still_be_given_back() -> None:
    limit = lorry.Limit(1)
    kept: list[Place] = []

    async def take() -> None:
        kept.append(await limit.acquire(adapter=None, num_tokens=1))

    asyncio.run(take())
    free(kept[0])

    assert limit.num_in_flight == 0


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5])
def test_a_limit_that_is_no_number_of_calls_is_refused_by_name(wrong: int) -> None:
    with pytest.raises(ValueError, match="max_in_flight"):
        lorry.Limit(wrong)
    with pytest.raises(ValueError, match="per_adapter"):
        lorry.Limit(4, per_adapter=wrong)


def test_a_client_refuses_what_is_no_limit() -> None:
    with pytest.raises(TypeError, match="limit is a str"):
        lorry.AsyncClient("http://x", limit="many")  # type: ignore[arg-type]
