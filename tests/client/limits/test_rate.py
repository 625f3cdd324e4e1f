"""`RateLimit`: token buckets on a clock of the tests', and the order of those who wait."""

from __future__ import annotations

import asyncio

import pytest

import lorry
from lorry.limits.rate import TokenBucket
from tests.support.jumping_loop import run_jumping

NOTHING = lorry.Timing(created_ns=0, intended_ns=0)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_bucket_gives_its_rate_and_no_more_than_its_size_at_once() -> None:
    bucket = TokenBucket(per_s=2.0, size=4.0)
    delays = []
    for _ in range(6):
        delays.append(bucket.delay_s(1.0, 10.0))
        bucket.take(1.0)

    assert delays == [0.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    assert bucket.delay_s(4.0, 1_000.0) == 0.0


def test_what_costs_more_than_a_bucket_holds_waits_for_a_full_one_and_leaves_a_debt() -> None:
    bucket = TokenBucket(per_s=1.0, size=4.0)
    bucket.delay_s(1.0, 0.0)
    bucket.take(1.0)
    before = bucket.delay_s(10.0, 0.0)
    bucket.take(10.0)

    assert before == 1.0
    assert bucket.delay_s(1.0, 0.0) == 8.0  # from 7 below nothing to 1


def test_calls_begin_at_the_rate() -> None:
    async def main() -> list[float]:
        limit = lorry.RateLimit(requests_per_s=10, burst_s=0.1, clock=now)

        async def call() -> float:
            permit = await limit.acquire(adapter=None, num_tokens=1)
            permit.release(outcome=None, timing=NOTHING)
            return now()

        return await asyncio.gather(*(call() for _ in range(31)))

    starts = run_jumping(main())

    assert starts == sorted(starts)
    assert starts[-1] == pytest.approx(3.0, abs=0.01)


def test_tokens_are_limited_too_and_the_slower_of_both_counts() -> None:
    async def main() -> float:
        limit = lorry.RateLimit(requests_per_s=100, tokens_per_s=50, clock=now)
        for _ in range(11):
            await limit.acquire(adapter=None, num_tokens=25)
        return now()

    # 50 tokens at once, then 25 every half second
    assert run_jumping(main()) == pytest.approx(4.5, abs=0.01)


def test_a_small_call_does_not_overtake_a_large_one() -> None:
    async def main() -> list[str]:
        limit = lorry.RateLimit(tokens_per_s=10, clock=now)
        order: list[str] = []

        async def call(name: str, tokens: int) -> None:
            await limit.acquire(adapter=None, num_tokens=tokens)
            order.append(name)

        await asyncio.gather(call("first", 10), call("large", 10), call("small", 1))
        return order

    assert run_jumping(main()) == ["first", "large", "small"]


def test_a_waiter_that_is_cancelled_makes_way_for_a_smaller_one() -> None:
    async def main() -> tuple[float, int]:
        limit = lorry.RateLimit(tokens_per_s=10, clock=now)
        await limit.acquire(adapter=None, num_tokens=10)
        large = asyncio.create_task(limit.acquire(adapter=None, num_tokens=10))
        small = asyncio.create_task(limit.acquire(adapter=None, num_tokens=1))
        await asyncio.sleep(0.05)
        large.cancel()
        await small
        return now(), limit.num_queued

    assert run_jumping(main()) == (pytest.approx(0.1), 0)


def test_one_that_is_cancelled_in_the_moment_of_its_turn_gives_its_tokens_back() -> None:
    async def main() -> float:
        limit = lorry.RateLimit(requests_per_s=1, clock=now)
        await limit.acquire(adapter=None, num_tokens=1)
        second = asyncio.create_task(limit.acquire(adapter=None, num_tokens=1))
        await asyncio.sleep(0)
        # runs before the task does that its timer wakes at the same time
        asyncio.get_running_loop().call_at(1.0, second.cancel)
        await asyncio.wait([second])
        await limit.acquire(adapter=None, num_tokens=1)
        return now()

    assert run_jumping(main()) == pytest.approx(1.0)


def test_no_timer_is_left_when_nobody_waits() -> None:
    async def main() -> int:
        limit = lorry.RateLimit(requests_per_s=0.001, clock=now)
        await limit.acquire(adapter=None, num_tokens=1)
        second = asyncio.create_task(limit.acquire(adapter=None, num_tokens=1))
        await asyncio.sleep(1)
        second.cancel()
        await asyncio.wait([second])
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        return sum(not timer.cancelled() for timer in timers)

    assert run_jumping(main()) == 0


def test_the_rate_holds_over_loops_in_turn() -> None:
    seconds = iter([0.0, 0.0, 0.0, 0.0])
    limit = lorry.RateLimit(requests_per_s=1, clock=lambda: next(seconds))

    async def delay() -> float:
        before = limit.delay_s(1)
        if before == 0.0:
            await limit.acquire(adapter=None, num_tokens=1)
        return before

    assert [asyncio.run(delay()), asyncio.run(delay())] == [0.0, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [{}, {"requests_per_s": 0}, {"tokens_per_s": -1}, {"requests_per_s": 1, "burst_s": 0}],
)
def test_rates_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"RateLimit|per_s|burst_s"):
        lorry.RateLimit(**wrong)
