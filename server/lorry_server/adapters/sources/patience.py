"""`Patience`: waits for what may never come, so that its caller can leave at any time.

A thread that waits inside the operating system or a library cannot be ended from outside. So what
may wait for ever runs on a thread of its own, whose results are taken over as they come; when they
stop coming, or nobody wants them any more, that thread is left behind and ends when it wakes up.
How many may be left behind at once is bounded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Generic, TypeVar

from lorry_server.adapters.source import AdapterSourceError

T = TypeVar("T")

STALL_S = 30.0
MAX_LEFT_BEHIND = 64
POLL_S = 0.05
AHEAD = 2  # pieces that may wait to be taken


class FetchCancelledError(AdapterSourceError):
    """Nobody wants it any more."""


class Patience:
    """May be used by many threads. `stall_s` is how long nothing may come before it is given up."""

    def __init__(self, *, stall_s: float = STALL_S, max_left_behind: int = MAX_LEFT_BEHIND) -> None:
        self._stall_s = stall_s
        self._max_left_behind = max_left_behind
        self._lock = threading.Lock()
        self._left_behind: set[threading.Thread] = set()

    def ask(self, question: Callable[[], T], *, what: str, cancelled: Callable[[], bool]) -> T:
        """Return `question()`. Raises what it raises, or as `iterate` does."""

        def answer() -> Generator[T, None, None]:
            yield question()

        return next(self.iterate(answer, what=what, cancelled=cancelled))

    def iterate(
        self,
        produce: Callable[[], Generator[T, None, None]],
        *,
        what: str,
        cancelled: Callable[[], bool],
    ) -> Generator[T, None, None]:
        """Yield what `produce()` yields, which runs on another thread and may be a few items ahead.

        Raises what it raises; FetchCancelledError soon after `cancelled()`; AdapterSourceError
        that names `what` when nothing came for too long, or too many threads hang already.
        """
        _refuse_when_cancelled(cancelled, what)
        self._refuse_when_too_many_hang(what)
        reader = _Reader(produce)
        reader.start()
        try:
            while (item := self._next(reader, what, cancelled)) is not None:
                yield item[0]
        finally:
            reader.is_wanted = False
            if reader.is_alive():
                with self._lock:
                    self._left_behind.add(reader)

    def _next(
        self, reader: _Reader[T], what: str, cancelled: Callable[[], bool]
    ) -> tuple[T] | None:
        deadline_s = time.monotonic() + self._stall_s
        while True:
            _refuse_when_cancelled(cancelled, what)
            try:
                item, error = reader.items.get(timeout=POLL_S)
            except queue.Empty:
                if time.monotonic() > deadline_s:
                    raise AdapterSourceError(
                        f"cannot fetch {what}: nothing has come for {self._stall_s:g} seconds"
                    ) from None
                continue
            if error is not None:
                raise error
            return item

    def _refuse_when_too_many_hang(self, what: str) -> None:
        with self._lock:
            self._left_behind = {thread for thread in self._left_behind if thread.is_alive()}
            num_hanging = len(self._left_behind)
        if num_hanging >= self._max_left_behind:
            raise AdapterSourceError(
                f"cannot fetch {what}: {num_hanging} earlier fetches hang in places that do not "
                "answer; try again when they have ended"
            )


class _Reader(threading.Thread, Generic[T]):
    """Puts (item, None) for each item, (None, error) for what was raised, (None, None) at the end."""

    def __init__(self, produce: Callable[[], Generator[T, None, None]]) -> None:
        super().__init__(name="lorry-adapter-source", daemon=True)
        self.items: queue.Queue[tuple[tuple[T] | None, BaseException | None]] = queue.Queue(AHEAD)
        self.is_wanted = True
        self._produce = produce

    def run(self) -> None:
        try:
            with closing(self._produce()) as items:
                for item in items:
                    self._put((item,), None)
                    if not self.is_wanted:
                        return
        except BaseException as exc:  # it belongs to whoever waits
            self._put(None, exc)
        else:
            self._put(None, None)

    def _put(self, item: tuple[T] | None, error: BaseException | None) -> None:
        while self.is_wanted:
            try:
                self.items.put((item, error), timeout=POLL_S)
            except queue.Full:
                continue
            return


def _refuse_when_cancelled(cancelled: Callable[[], bool], what: str) -> None:
    if cancelled():
        raise FetchCancelledError(f"fetching {what} was cancelled")
