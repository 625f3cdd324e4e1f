"""`SharedLoad`: one load, and everybody who waits for what comes of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lorry_server.adapters.shelf import Version
from lorry_server.errors import AdapterCapacityError, AdapterNotReadyError

T = TypeVar("T")

RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Waiter:
    """What it takes of the loaded version, and how it gives that back."""

    future: asyncio.Future[Any]
    take: Callable[[Version], Any]
    give_back: Callable[[Any], None]


@dataclass(slots=True, eq=False)
class SharedLoad:
    """`name` is who it is for in messages; `number` says which of two loads began later.

    The event loop owns it, but for `is_cancelled`, which the load's thread looks at. `is_asked`
    marks a load that somebody asked for by name and source, whatever requests wait for it too.
    """

    key: str
    name: str
    number: int
    is_asked: bool = False
    is_pinned: bool = False
    is_done: bool = False
    is_cancelled: bool = False
    waits_for_room: bool = False  # it has been loaded, and what is in use leaves no room yet
    timer: asyncio.TimerHandle | None = None
    _waiters: dict[asyncio.Future[Any], Waiter] = field(default_factory=dict)

    @property
    def num_waiters(self) -> int:
        return len(self._waiters)

    async def wait(
        self, take: Callable[[Version], T], *, give_back: Callable[[T], None], limit_s: float
    ) -> T:
        """Return what `take` makes of the version that was loaded.

        `take` is called in the moment when the load is done, before anything else can use the
        room; what it took is given back if this waiter was cancelled in between. Raises what the
        load failed with, and after `limit_s`, when the load goes on, AdapterNotReadyError, or
        AdapterCapacityError if only room is missing.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiters[future] = Waiter(future, take, give_back)
        timer = loop.call_later(limit_s, self._expire, future, limit_s)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                give_back(future.result())
            raise
        finally:
            timer.cancel()
            self._waiters.pop(future, None)

    def succeed(self, version: Version) -> None:
        """Give every waiter its part of `version`, and wake one of them in each turn of the loop.

        Were they woken at once, every stream on the loop would wait until all of them had begun.
        """
        _wake_next(deque((waiter, waiter.take(version)) for waiter in self._end()))

    def fail(self, error_for: Callable[[], Exception]) -> None:
        """Raise a new error in every waiter."""
        for waiter in self._end():
            waiter.future.set_exception(error_for())

    def _end(self) -> list[Waiter]:
        assert not self.is_done
        self.is_done = True
        if self.timer is not None:
            self.timer.cancel()
        return [waiter for waiter in self._waiters.values() if not waiter.future.done()]

    def _expire(self, future: asyncio.Future[Any], limit_s: float) -> None:
        if not future.done():
            too_late = no_room if self.waits_for_room else not_ready
            future.set_exception(too_late(self.name, limit_s))


def _wake_next(taken: deque[tuple[Waiter, Any]]) -> None:
    while taken:
        waiter, part = taken.popleft()
        if waiter.future.done():  # cancelled since, or out of patience
            waiter.give_back(part)
            continue
        waiter.future.set_result(part)
        waiter.future.get_loop().call_soon(_wake_next, taken)
        return


def not_ready(name: str, limit_s: float) -> AdapterNotReadyError:
    return AdapterNotReadyError(
        f"adapter {name!r} is still being loaded after {limit_s:g} s; it may be ready when you ask "
        "again",
        retry_after_s=RETRY_AFTER_S,
    )


def no_room(name: str, limit_s: float) -> AdapterCapacityError:
    return AdapterCapacityError(
        f"adapter {name!r} has been loaded and found no room within {limit_s:g} s: adapters that "
        "running requests use fill --adapter-host-memory. Ask again when some of these have ended",
        retry_after_s=RETRY_AFTER_S,
    )


def sent_away(name: str, limit_s: float) -> AdapterCapacityError:
    return AdapterCapacityError(
        f"adapter {name!r} has to make room for another, which was asked for before, and is not back "
        f"after {limit_s:g} s: --adapter-host-memory holds no more. Ask again when running requests "
        "have ended",
        retry_after_s=RETRY_AFTER_S,
    )
