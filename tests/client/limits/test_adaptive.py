"""`AdaptiveLimit` against servers whose capacity is known."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

import lorry
from lorry.limits.adaptive import TRACE_LENGTH

OVERLOADED = lorry.Overloaded("full", status=429, retryable=True)


def timing(ttft: float | None) -> lorry.Timing:
    return lorry.Timing(
        created_ns=0,
        intended_ns=0,
        attempts=(lorry.AttemptTiming(0),),
        first_token_ns=None if ttft is None else int(ttft * 1e9),
    )


class Server:
    """Serves in order of arrival; `capacity` at once are met without harm."""

    def __init__(self, limit: lorry.AdaptiveLimit, *, capacity: int, refuses: bool) -> None:
        self._limit = limit
        self._capacity = capacity
        self._refuses = refuses

    async def serve(self, num_calls: int) -> None:
        """As many calls at once as the limit allows, all the time."""
        inside: deque[lorry.Permit] = deque()
        for _ in range(num_calls):
            while len(inside) >= self._limit.limit:
                self._answer(inside.popleft(), len(inside) + 1)
            inside.append(await self._limit.acquire(adapter=None, num_tokens=1))
        while inside:
            self._answer(inside.popleft(), len(inside) + 1)

    def _answer(self, permit: lorry.Permit, num_inside: int) -> None:
        if self._refuses:
            outcome = OVERLOADED if num_inside > self._capacity else None
            permit.release(outcome=outcome, timing=timing(None))
        else:
            ttft = 0.1 * max(1.0, num_inside / self._capacity)
            permit.release(outcome=None, timing=timing(ttft))


async def test_the_limit_finds_the_capacity_of_a_server_that_refuses() -> None:
    limit = lorry.AdaptiveLimit(min=2, start=8, max=400)
    await Server(limit, capacity=60, refuses=True).serve(20_000)
    late = [change.limit for change in limit.trace[-40:]]

    assert max(late) <= 62
    assert min(late) >= 0.7 * 60


async def test_the_limit_finds_where_first_tokens_become_late() -> None:
    limit = lorry.AdaptiveLimit(min=2, start=8, max=400, target_ttft=0.15)
    await Server(limit, capacity=40, refuses=False).serve(20_000)
    late = [change.limit for change in limit.trace[-20:]]

    assert all(40 <= value <= 64 for value in late)  # at 60 the mean time is the target


async def test_a_crowd_that_is_refused_at_once_lowers_the_limit_once() -> None:
    limit = lorry.AdaptiveLimit(min=4, start=100, max=400)
    permits = [await limit.acquire(adapter=None, num_tokens=1) for _ in range(100)]
    for permit in permits:
        permit.release(outcome=OVERLOADED, timing=timing(None))

    assert limit.limit == 75
    assert [change.cause for change in limit.trace] == ["start", "overloaded"]


async def test_a_limit_that_is_not_reached_does_not_grow() -> None:
    limit = lorry.AdaptiveLimit(min=2, start=10, max=400)
    for _ in range(500):
        permit = await limit.acquire(adapter=None, num_tokens=1)
        permit.release(outcome=None, timing=timing(0.1))

    assert limit.limit == 10


async def test_failures_that_say_nothing_about_load_change_nothing() -> None:
    limit = lorry.AdaptiveLimit(min=1, start=2, max=400)
    for _ in range(50):
        permits = [await limit.acquire(adapter=None, num_tokens=1) for _ in range(2)]
        for permit in permits:
            permit.release(outcome=lorry.BadRequest("no", status=400), timing=timing(None))

    assert limit.limit == 2


async def test_a_stream_that_ran_out_of_time_before_its_first_token_was_late() -> None:
    limit = lorry.AdaptiveLimit(min=1, start=2, max=400, target_ttft=0.5)
    permits = [await limit.acquire(adapter=None, num_tokens=1) for _ in range(2)]
    gave_up = lorry.Timing(0, 0, attempts=(lorry.AttemptTiming(0),), done_ns=int(2e9))
    for permit in permits:
        permit.release(outcome=lorry.DeadlineExceeded("late", phase="first_token"), timing=gave_up)

    assert limit.limit == 1
    assert limit.trace[-1].cause == "late"


async def test_those_who_wait_come_in_when_the_limit_grows() -> None:
    limit = lorry.AdaptiveLimit(min=1, start=1, max=8)
    first = await limit.acquire(adapter=None, num_tokens=1)
    others = [asyncio.create_task(limit.acquire(adapter=None, num_tokens=1)) for _ in range(3)]
    await asyncio.sleep(0)
    first.release(outcome=None, timing=timing(None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert limit.limit == 2
    assert [task.done() for task in others] == [True, True, False]
    others[2].cancel()


async def test_the_trace_stays_within_bounds() -> None:
    limit = lorry.AdaptiveLimit(min=1, start=1, max=3, clock=iter(range(10**6)).__next__)
    for _ in range(TRACE_LENGTH):
        permits = [await limit.acquire(adapter=None, num_tokens=1) for _ in range(limit.limit)]
        for permit in permits:
            permit.release(outcome=OVERLOADED if limit.limit == 3 else None, timing=timing(None))

    assert len(limit.trace) == TRACE_LENGTH
    stamps = [change.t_ns for change in limit.trace]
    assert stamps == sorted(stamps)


def test_what_was_found_is_kept_from_one_loop_to_the_next() -> None:
    limit = lorry.AdaptiveLimit(min=4, start=100, max=400)

    async def be_refused() -> None:
        permit = await limit.acquire(adapter=None, num_tokens=1)
        permit.release(outcome=OVERLOADED, timing=timing(None))

    asyncio.run(be_refused())
    asyncio.run(be_refused())

    assert limit.limit == 56


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"min": 0}, "min"),
        ({"min": 30}, "in order"),
        ({"start": 600}, "in order"),
        ({"target_ttft": 0.0}, "target_ttft"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(wrong: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        lorry.AdaptiveLimit(**wrong)
