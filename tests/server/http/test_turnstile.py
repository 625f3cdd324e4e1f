from __future__ import annotations

import asyncio

from lorry_server.http.turnstile import Turnstile


async def iterations_of(turnstile: Turnstile, num_tasks: int) -> list[int]:
    """In which iteration of the loop each of the tasks, started together, got through."""
    loop = asyncio.get_running_loop()
    iteration = 0
    is_counting = True

    def count() -> None:
        nonlocal iteration
        iteration += 1
        if is_counting:
            loop.call_soon(count)

    async def pass_through() -> int:
        await turnstile.go_through()
        return iteration

    tasks = [asyncio.create_task(pass_through()) for _ in range(num_tasks)]
    loop.call_soon(count)
    try:
        return await asyncio.gather(*tasks)
    finally:
        is_counting = False


async def test_of_tasks_that_come_together_one_goes_through_in_each_iteration() -> None:
    passed = await iterations_of(Turnstile(), 16)

    assert len(set(passed)) == 16
    assert passed == sorted(passed)


async def test_one_that_comes_alone_does_not_wait() -> None:
    turnstile = Turnstile()

    for _ in range(3):
        coroutine = turnstile.go_through()
        try:
            coroutine.send(None)
        except StopIteration:
            is_through = True
        else:
            is_through = False
        assert is_through
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_one_that_leaves_the_line_holds_nobody_up() -> None:
    turnstile = Turnstile()
    tasks = [asyncio.create_task(turnstile.go_through()) for _ in range(4)]
    await asyncio.sleep(0)

    tasks[1].cancel()
    tasks[2].cancel()

    async with asyncio.timeout(5):
        await tasks[3]
    assert tasks[0].done()
