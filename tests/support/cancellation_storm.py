"""Calls that are cancelled at random moments, and an account of what they left behind.

As a program, for loops and interpreters of other kinds: `python -m tests.support.cancellation_storm
LOOP NUM_CALLS SEED` runs two storms in two event loops, prints their accounts, and fails if either
left anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections import Counter
from dataclasses import dataclass, replace

import lorry
from lorry.loop_lag import lag_of
from tests.support.watchful_server import WatchfulServer

NUM_CALLERS = 100
NUM_PLACES = 75
MAX_PAUSE_S = 0.25
SLOWEST_END_S = 0.5
TICK_S = 0.01


@dataclass(frozen=True)
class Account:
    """What a storm did, by the stage that each call was in, and what was there after it."""

    stages: Counter[str]
    outcomes: Counter[str]
    num_at_server: int
    slowest_end_s: float
    server_is_idle: bool
    num_sockets: int
    num_tasks: int
    num_places_taken: int
    num_queued: int
    files_more: frozenset[tuple[int, str]]
    loop_lag_s: float
    stats: lorry.ClientStats

    def check(self) -> None:
        """Nothing is left of any call, and every call had one outcome; raises AssertionError."""
        found = {
            "server is idle": self.server_is_idle,
            "server stopped in time": self.slowest_end_s < SLOWEST_END_S,
            "sockets": self.num_sockets,
            "tasks": self.num_tasks,
            "places taken": self.num_places_taken,
            "queued": self.num_queued,
            "more files": len(self.files_more),
            "in flight": self.stats.num_in_flight,
            "started": self.stats.num_started,
            "cancelled": self.stats.num_cancelled,
            "finished": self.stats.num_finished,
        }
        wanted = dict.fromkeys(found, 0) | {
            "server is idle": True,
            "server stopped in time": True,
            "started": self.outcomes.total(),
            "cancelled": self.outcomes["cancelled"],
            "finished": self.outcomes["finished"],
        }
        assert found == wanted, (
            f"found {found}, wanted {wanted}; slowest {self.slowest_end_s}, lag {self.loop_lag_s}"
        )


class LoopTime:
    """Seconds in which the loop ran: ten milliseconds for each tick of a timer, however late it came.

    A loop that a busy machine lets run only now and then notices late, in seconds of a clock, what it
    is told; but in its first turns.
    """

    def __init__(self) -> None:
        self._num_ticks = 0
        self._set_timer()

    def __call__(self) -> float:
        return self._num_ticks * TICK_S

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        self._num_ticks += 1
        self._set_timer()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)


async def storm(num_calls: int, *, seed: int, limit: lorry.Limit) -> Account:
    """Make calls, whole and streamed, `NUM_CALLERS` at a time, and cancel each some time later."""
    draw = random.Random(seed)
    stages: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    left_at: dict[str, float] = {}
    files_before = open_files()
    tasks_before = asyncio.all_tasks()
    lag = lag_of(asyncio.get_running_loop())
    began_at = lag.enter()
    retry = lorry.RetryPolicy(max_attempts=2, max_retry_after_s=60)

    now = LoopTime()
    async with WatchfulServer(seed=seed + 1, clock=now) as server:
        client = lorry.AsyncClient(server.url, limit=limit, retry=retry)
        await client.warmup()  # the import of a library would be felt by all calls

        async def call(request_id: str, is_streamed: bool) -> None:
            stream = client.stream("Hi", request_id=request_id) if is_streamed else None
            try:
                if stream is not None:
                    await stream.final()
                else:
                    await client.generate("Hi", request_id=request_id)
            finally:
                left_at[request_id] = now()
                if stream is not None:
                    stages[stage_of(stream.timing)] += 1

        async def cause_trouble(numbers: range) -> None:
            for number in numbers:
                task = asyncio.create_task(call(f"r{number}", draw.random() < 0.6))
                if draw.random() < 0.4:
                    for _ in range(draw.randrange(8)):
                        await asyncio.sleep(0)
                else:
                    await asyncio.sleep(draw.random() ** 2 * MAX_PAUSE_S)
                task.cancel()
                await asyncio.wait([task])
                if task.cancelled():
                    outcomes["cancelled"] += 1
                else:
                    task.result()
                    outcomes["finished"] += 1

        await asyncio.gather(
            *(cause_trouble(range(i, num_calls, NUM_CALLERS)) for i in range(NUM_CALLERS))
        )
        # those that were cancelled before they ran at all are no calls to the client
        outcomes["cancelled"] -= num_calls - client.stats().num_started
        tasks_left = asyncio.all_tasks() - tasks_before
        stats = client.stats()
        await client.aclose()
        server_is_idle = await server.is_idle(within_s=20.0)
        delays = [
            ended_at - left_at[request_id]
            for request_id, ended_at in server.ended_at.items()
            if request_id in left_at
        ]
        account = Account(
            stages=stages,
            outcomes=outcomes,
            num_at_server=server.num_requests,
            slowest_end_s=max(delays, default=0.0),
            server_is_idle=server_is_idle,
            num_sockets=num_sockets_to(server.port),
            num_tasks=len(tasks_left),
            num_places_taken=limit.num_in_flight,
            num_queued=limit.num_queued,
            files_more=frozenset(),
            loop_lag_s=lag.leave(began_at),
            stats=stats,
        )
    now.stop()
    for _ in range(1_000):  # a loop closes the files of a server some turns later
        files_more = open_files() - files_before
        if not files_more:
            break
        await asyncio.sleep(0.01)
    return replace(account, files_more=files_more)


def stage_of(timing: lorry.Timing) -> str:
    """How far a stream had come."""
    if timing.admitted_ns is None:
        return "queue"
    last = timing.attempts[-1] if timing.attempts else None
    if last is None or last.connected_ns is None:
        return "connect"
    if last.headers_ns is None:
        return "headers"
    if timing.first_token_ns is None:
        return "first token" if timing.first_byte_ns is None else "first byte"
    return "tokens"


def open_files() -> frozenset[tuple[int, str]]:
    """Descriptors and what they are of; libuv keeps one of /dev/null in reserve, which is no leak.

    To be compared as sets: files that the garbage of others lets go meanwhile are no news.
    """
    return frozenset(item for item in _open_files().items() if item[1] != "/dev/null")


def num_sockets_to(port: int) -> int:
    """Sockets of this process whose other end is that port."""
    count = 0
    for number, name in _open_files().items():
        if name.startswith("socket:"):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as other:
                peer = other.getpeername()  # an error if it is not connected
                count += isinstance(peer, tuple) and peer[1] == port
    return count


def _open_files() -> dict[int, str]:
    files = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them is closed
            files[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return files


def main() -> None:
    loop, num_calls, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    limit = lorry.Limit(NUM_PLACES)
    for turn in range(2):
        run = asyncio.run
        if loop == "uvloop":
            import uvloop

            run = uvloop.run

        async def main() -> Account:
            asyncio.get_running_loop().slow_callback_duration = 60.0
            return await storm(num_calls, seed=seed + turn, limit=limit)  # noqa: B023 - it is awaited in its turn

        account = run(main())
        account.check()
        print(sum(account.outcomes.values()))


if __name__ == "__main__":
    main()
