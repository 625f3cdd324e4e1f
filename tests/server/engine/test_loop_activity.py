"""What the event loop says of itself to the threads that compute."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lorry_server.engine.loop_activity import (
    BUSY,
    CORE_ADDRESS,
    LOOP_ACTIVITY,
    WatchedSelector,
    new_watched_loop,
)

is_published = pytest.mark.skipif(
    (sys.platform, platform.machine(), platform.libc_ver()[0]) != ("linux", "x86_64", "glibc"),
    reason="only Linux with glibc publishes where a thread runs",
)


@pytest.fixture(autouse=True)
def words_as_before() -> Iterator[None]:
    before = LOOP_ACTIVITY.copy()
    yield
    LOOP_ACTIVITY[:] = before


@is_published
def test_a_loop_is_busy_while_it_handles_events_and_not_while_it_waits() -> None:
    async def look() -> tuple[int, int]:
        handling = int(LOOP_ACTIVITY[BUSY])
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as other:
            # the loop waits for the other thread, which looks a little later
            waiting = await loop.run_in_executor(other, _busy_soon)
        return handling, waiting

    with asyncio.Runner(loop_factory=new_watched_loop) as runner:
        assert runner.run(look()) == (1, 0)
    assert LOOP_ACTIVITY[BUSY] == 0


def _busy_soon() -> int:
    for _ in range(10_000):
        if LOOP_ACTIVITY[BUSY] == 0:
            return 0
        time.sleep(0.001)  # lets the loop's thread have the interpreter's lock
    return 1


@is_published
def test_the_words_say_on_which_core_the_loop_is() -> None:
    allowed = os.sched_getaffinity(0)

    async def cores() -> list[int]:
        found = []
        for core in sorted(allowed):
            os.sched_setaffinity(0, {core})
            await asyncio.sleep(0)
            word = ctypes.c_uint64.from_address(int(LOOP_ACTIVITY[CORE_ADDRESS])).value
            found.append(word >> 32)
        return found

    try:
        with asyncio.Runner(loop_factory=new_watched_loop) as runner:
            assert runner.run(cores()) == sorted(allowed)
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_loop_of_another_thread_is_a_plain_one() -> None:
    with ThreadPoolExecutor(1) as other:
        loop = other.submit(new_watched_loop).result()

    try:
        assert not isinstance(getattr(loop, "_selector", None), WatchedSelector)
    finally:
        loop.close()
