"""`StreamReader`: a sequence's outputs as an async iterator, for tests of engines without HTTP."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from lorry_server.engine.client import RequestStream
from lorry_server.engine.outputs import TokenOutput


class StreamReader:
    """Yields what came since it was last asked, merged. Leaving its block aborts the sequence."""

    def __init__(self, stream: RequestStream) -> None:
        self._stream = stream
        self._arrived = asyncio.Event()
        self._has_ended = False
        stream.listen(self._notice)

    def _notice(self, output: TokenOutput) -> None:
        self._has_ended = output.finish_reason is not None
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenOutput:
        if self._has_ended and not self._arrived.is_set():
            raise StopAsyncIteration
        await self._arrived.wait()
        self._arrived.clear()
        return self._stream.take()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.abort()
