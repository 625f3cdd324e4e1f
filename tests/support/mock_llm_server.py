"""Runs the load test's mock server in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lorry_loadtest.mock_server import MockServer


@dataclass(frozen=True, slots=True)
class RunningMock:
    url: str
    port: int
    server: MockServer


@contextmanager
def running_mock(server: MockServer) -> Iterator[RunningMock]:
    """Serves until the block is left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="mock-llm-server")
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(server.start(), loop).result(timeout=10)
        yield RunningMock(f"http://127.0.0.1:{port}", port, server)
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(timeout=10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
