"""How late an event loop was: what a limit of time may be exceeded by without anybody's fault."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

_TICK_S = 0.005


class LoopLag:
    """`async with LoopLag() as lag:` measures; `lag.longest_s` is the worst of it."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self.longest_s = max(self.longest_s, loop.time() - due)
