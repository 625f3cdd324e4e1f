"""A real uvicorn on a free loopback port, in the running event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def live_server(
    app: Any, *, send_buffer_bytes: int | None = None, **options: Any
) -> AsyncIterator[str]:
    """Serve `app` until the block is left; yield its base URL.

    `options` are uvicorn's. Leaving the block closes every connection that is still open. A small
    `send_buffer_bytes` makes a reader that does not read felt soon.
    """
    listener = socket.socket()
    if send_buffer_bytes is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    listener.bind(("127.0.0.1", 0))
    settings: dict[str, Any] = {
        "http": "h11",
        "lifespan": "auto",
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": 1,
    }
    server = _Server(uvicorn.Config(app, **(settings | options)))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    started = asyncio.create_task(server.has_started.wait())
    try:
        await asyncio.wait((started, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            raise RuntimeError("the server ended before it had started")
        port = listener.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.must_stop.set()
        started.cancel()
        await serving
        listener.close()


class _Server(uvicorn.Server):
    """Says when it has started, stops at once, and leaves the signal handlers alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()
        self.must_stop = asyncio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.has_started.set()

    async def main_loop(self) -> None:
        await self.must_stop.wait()
