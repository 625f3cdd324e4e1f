"""A list of limiters: all hold, and what one gave goes back when the next is not waited for."""

from __future__ import annotations

import asyncio

import pytest

import lorry
from lorry.limits.fixed import as_limiter
from tests.support.jumping_loop import run_jumping

NOTHING = lorry.Timing(created_ns=0, intended_ns=0)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_calls_keep_both_the_number_and_the_rate() -> None:
    async def main() -> tuple[list[float], int]:
        places = lorry.Limit(2)
        limit = as_limiter([places, lorry.RateLimit(requests_per_s=10, burst_s=0.1, clock=now)])
        assert limit is not None
        most = 0

        async def call() -> float:
            nonlocal most
            permit = await limit.acquire(adapter=None, num_tokens=1)
            began = now()
            most = max(most, limit.num_in_flight)
            await asyncio.sleep(0.5)
            permit.release(outcome=None, timing=NOTHING)
            return began

        starts = await asyncio.gather(*(call() for _ in range(6)))
        assert (limit.num_in_flight, limit.num_queued, places.num_in_flight) == (0, 0, 0)
        return starts, most

    starts, most = run_jumping(main())

    # two at once, a tenth of a second apart, and the next two when these have ended
    assert starts == pytest.approx([0.0, 0.1, 0.5, 0.6, 1.0, 1.1], abs=0.02)
    assert most == 2


async def test_who_leaves_the_second_line_gives_back_what_the_first_gave() -> None:
    first, second = lorry.AdaptiveLimit(min=1, start=2, max=4), lorry.Limit(1)
    limit = as_limiter([first, second])
    assert limit is not None
    held = await limit.acquire(adapter=None, num_tokens=1)
    waiting = asyncio.create_task(limit.acquire(adapter=None, num_tokens=1))
    await asyncio.sleep(0)
    both = first.num_in_flight
    waiting.cancel()
    await asyncio.wait([waiting])

    assert both == 2
    assert (first.num_in_flight, second.num_in_flight, limit.num_queued) == (1, 1, 0)
    held.release(outcome=None, timing=NOTHING)
    held.release(outcome=None, timing=NOTHING)
    assert (first.num_in_flight, second.num_in_flight) == (0, 0)
    assert first.limit == 2  # what never began has taught it nothing


def test_a_list_of_one_is_that_one_and_an_empty_one_is_refused() -> None:
    only = lorry.Limit(3)

    assert as_limiter([only]) is only
    assert repr(as_limiter([3, lorry.RateLimit(requests_per_s=2)])) == (
        "[Limit(3), RateLimit(requests_per_s=2)]"
    )
    with pytest.raises(ValueError, match="empty"):
        lorry.AsyncClient("http://x", limit=[])
    with pytest.raises(TypeError, match="limit is a str"):
        lorry.AsyncClient("http://x", limit=["many"])  # type: ignore[list-item]  # the point of the test
