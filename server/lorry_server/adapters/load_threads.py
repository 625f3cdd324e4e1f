"""`LoadThreads`: a thread for every load, so that one that hangs keeps nobody else waiting.

Fetching waits for networks and file systems, which may answer late or never, and a thread that
waits inside the operating system cannot be ended from outside. A pool of a few workers is used up
by as many hanging sources. So every load has a thread of its own, which costs a stack and no
processor while it waits, up to a number that is large; the part of a load that computes is bounded
by `WorkPlaces`. The threads are daemons: an executor's would be joined when the process ends, and a
hanging one would keep it from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from lorry_server.engine.thread_priority import give_way
from lorry_server.errors import AdapterCapacityError

T = TypeVar("T")

MAX_THREADS = 256
RETRY_AFTER_S = 5.0
# Loads give way to the threads that compute tokens, which are at 5. Not further down: a thread that
# is hardly ever run may be holding the interpreter's lock meanwhile.
NICENESS = 15


class LoadThreads:
    """Belongs to the event loop; only what it runs is on other threads."""

    def __init__(self, *, max_threads: int = MAX_THREADS) -> None:
        self._max_threads = max_threads
        self.num_running = 0

    def start(
        self, work: Callable[[], T], done: Callable[[T | None, Exception | None], None]
    ) -> None:
        """Run `work` on a thread, then `done` on the event loop with its result or its exception.

        Raises AdapterCapacityError when as many threads run as may.
        """
        if self.num_running >= self._max_threads:
            raise AdapterCapacityError(
                f"{self.num_running} adapters are being loaded, and more may not be at once",
                retry_after_s=RETRY_AFTER_S,
            )
        loop = asyncio.get_running_loop()

        def ended(result: T | None, error: Exception | None) -> None:
            self.num_running -= 1
            done(result, error)

        def run() -> None:
            give_way(NICENESS)
            result, error = None, None
            try:
                result = work()
            except Exception as exc:
                error = exc
            # A loop that has closed meanwhile has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended, result, error)

        threading.Thread(target=run, name="lorry-adapter-load", daemon=True).start()
        self.num_running += 1  # `ended` is for a later turn of the loop
