"""HTTP over aiohttp's connections: the default transport."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from lorry.timing import AttemptTiming
from lorry.transports.aiohttp_pool import Pool, PooledResponse
from lorry.transports.base import ConnectionCounts, WireRequest


class AiohttpTransport:
    """One pool per event loop, made at the first request and closed with its loop.

    Nothing is limited here: as many connections are opened as requests are in flight. There are no
    cookies, and no proxies: those of the environment are for a session that the caller makes
    (`AiohttpSessionTransport`). Without an `ssl_context` all share one, which aiohttp makes when it is
    imported.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self._keepers: dict[asyncio.AbstractEventLoop, AsyncGenerator[Pool]] = {}
        self._pools: dict[asyncio.AbstractEventLoop, Pool] = {}

    def send(
        self, request: WireRequest, *, attempt: AttemptTiming
    ) -> Coroutine[Any, Any, PooledResponse]:
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is None:
            return self._send_first(request, attempt)
        return pool.send(request, attempt)

    def count_connections(self) -> ConnectionCounts:
        try:
            pool = self._pools.get(asyncio.get_running_loop())
        except RuntimeError:  # no loop is running
            pool = None
        return ConnectionCounts(0, 0) if pool is None else pool.count()

    async def aclose(self) -> None:
        keeper = self._keepers.get(asyncio.get_running_loop())
        if keeper is not None:
            await keeper.aclose()

    async def _send_first(self, request: WireRequest, attempt: AttemptTiming) -> PooledResponse:
        pool = await self._open_pool()
        return await pool.send(request, attempt)

    async def _open_pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        for other in list(self._keepers):
            if other.is_closed():  # without having shut its generators down
                # another thread may be doing the same
                self._keepers.pop(other, None)
                self._pools.pop(other, None)
        keeper = self._keep_pool(loop)
        self._keepers[loop] = keeper
        return await anext(keeper)

    async def _keep_pool(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[Pool]:
        """Hold a pool open until `aclose`, or until the loop shuts its generators down.

        That shutdown, which `asyncio.run` performs, is the one moment at which a library is told
        that a loop ends; so a client that nobody closed leaves no open connection behind.
        """
        pool = Pool(self._ssl_context)
        self._pools[loop] = pool
        try:
            yield pool
        finally:
            self._pools.pop(loop, None)
            self._keepers.pop(loop, None)
            await pool.aclose()
