"""Calls at a fixed concurrency, and what they cost this process. Standard library only, so that the
workers of other environments measure with the same code."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

# one call, streamed or not, for so many tokens; returns how many pieces of the answer it handed out
Call: TypeAlias = Callable[[bool, int], Awaitable[int]]


@dataclass
class Sample:
    """What some calls took. CPU is that of the whole process, its threads included."""

    num_requests: int
    num_events: int
    wall_s: float
    cpu_s: float
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def requests_per_s(self) -> float:
        return self.num_requests / self.wall_s

    @property
    def cpu_us_per_request(self) -> float:
        return self.cpu_s / self.num_requests * 1e6

    @property
    def num_errors(self) -> int:
        return sum(self.errors.values())


async def closed_loop(
    call: Call, *, concurrency: int, num_requests: int, stream: bool, num_tokens: int
) -> Sample:
    """`concurrency` tasks share `num_requests` calls, after one call each that is not measured."""
    await _run(call, concurrency, concurrency, stream, min(num_tokens, 2))
    return await _run(call, concurrency, num_requests, stream, num_tokens)


async def gathered(call: Call, *, num_requests: int, num_tokens: int) -> Sample:
    """All calls under one gather, nothing warm."""
    return await _run(call, num_requests, num_requests, False, num_tokens)


async def _run(
    call: Call, concurrency: int, num_requests: int, stream: bool, num_tokens: int
) -> Sample:
    numbers = iter(range(num_requests))
    errors: Counter[str] = Counter()
    num_events = 0

    async def work() -> None:
        nonlocal num_events
        for _ in numbers:
            try:
                num_events += await call(stream, num_tokens)
            except Exception as error:
                errors[_name(error)] += 1

    gc.collect()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return Sample(
        num_requests,
        num_events,
        time.perf_counter() - wall_s,
        time.process_time() - cpu_s,
        dict(errors),
    )


def raise_file_limit() -> int:
    """As many descriptors as may be had; returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _name(error: Exception) -> str:
    cause = error.__cause__
    return type(error).__name__ + ("" if cause is None else f" ({type(cause).__name__})")
