"""An asyncio loop in a greenlet, so that the async SDK runs inside locust's gevent process.

Greenlets share their thread, in which only one loop may run, so there is one for the process. Its
selector is gevent's, once locust has patched the standard library: while it waits, greenlets run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import gevent
from gevent import GreenletExit
from gevent.event import Event

T = TypeVar("T")


class SdkLoop:
    """Started with its first coroutine; lives as long as the process."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Blocks this greenlet until `work` is done; a kill of the greenlet cancels it first."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            gevent.spawn(self._loop.run_forever)
        done = Event()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            assert self._loop is not None
            task = self._loop.create_task(work)
            tasks.append(task)
            task.add_done_callback(lambda _: done.set())

        self._loop.call_soon_threadsafe(start)
        try:
            done.wait()
        except GreenletExit:
            self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            done.wait(1.0)
            raise
        return tasks[0].result()


SDK_LOOP = SdkLoop()
