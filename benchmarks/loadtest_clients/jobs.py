"""A client behind a pipe: a line of JSON in is a load, a line out its stamps and what it cost.

Imported by the scripts beside it, which run under an interpreter that has nothing of this repository.
A load has `url`, `num_tokens` and `times_ns`, at which its streams begin; the stamps are by request
id, on the monotonic clock. The first line out says the version.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

Answer = TypeVar("Answer")
Ask = Callable[[int], Awaitable[Answer]]


def answer_jobs(
    package: str,
    run: Callable[[dict[str, Any]], Awaitable[list[Answer]]],
    stamps_of: Callable[[Answer], tuple[str, list[int]]],
) -> None:
    """Ends when standard input does. `run` is what is timed."""
    # the libraries may print; answers keep the pipe for themselves
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write(json.dumps({"version": importlib.metadata.version(package)}) + "\n")
    for line in sys.stdin:
        cpu_s = time.process_time()
        told = asyncio.run(run(json.loads(line)))
        cpu_s = time.process_time() - cpu_s
        stamps = dict(stamps_of(answer) for answer in told)
        answers.write(json.dumps({"stamps": stamps, "cpu_s": cpu_s}) + "\n")


async def on_schedule(times_ns: Sequence[int], ask: Ask[Answer]) -> list[Answer]:
    """Calls `ask` with the number of each stream at its time; the answers of those that succeeded.

    The first failure is printed, the others are not.
    """
    start_s = time.perf_counter()

    async def wait_and_ask(number: int, at_ns: int) -> Answer:
        await asyncio.sleep(max(0.0, start_s + at_ns / 1e9 - time.perf_counter()))
        return await ask(number)

    waiting = (wait_and_ask(number, at_ns) for number, at_ns in enumerate(times_ns))
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    if failures:
        print(f"{len(failures)} failed, the first with {failures[0]!r}", file=sys.stderr)
    return [answer for answer in answers if not isinstance(answer, BaseException)]
