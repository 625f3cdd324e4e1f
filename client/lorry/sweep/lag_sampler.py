"""How late the client's own event loop is: the first thing to know about its timings."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Self

from lorry.distribution import Distribution, describe

INTERVAL_S = 0.01


class LagSampler:
    """Within its block, wakes every 10 ms and notes by how much that was late."""

    def __init__(self) -> None:
        self._lags_s: list[float] = []
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._watcher is not None
        self._watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watcher

    def distribution(self) -> Distribution:
        """Of all that was noted, in seconds."""
        return describe(self._lags_s)

    async def _watch(self) -> None:
        while True:
            asleep_ns = time.perf_counter_ns()
            await asyncio.sleep(INTERVAL_S)
            lag_s = (time.perf_counter_ns() - asleep_ns) / 1e9 - INTERVAL_S
            self._lags_s.append(max(0.0, lag_s))
