"""A `FakeLLMServer` on a loop and thread of its own, for callers that block or have another loop."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Script


class ServerInThread:
    """`with ServerInThread(script) as server:` serves at `server.url` until the block ends."""

    def __init__(self, script: Script) -> None:
        self.server = FakeLLMServer(script)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def requests(self) -> list[ReceivedRequest]:
        return self.server.requests

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.server.__aenter__(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stopping = self.server.__aexit__(None, None, None)
        asyncio.run_coroutine_threadsafe(stopping, self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
