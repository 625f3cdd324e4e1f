"""One value for each event loop: made when a loop first asks for it, dropped once it is closed.

`PerLoop` keeps its values; `WeakPerLoop` leaves that to whoever uses them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class PerLoop(Generic[_T]):
    """What belongs to one loop, such as a future, is never seen by another."""

    def __init__(self, make: Callable[[asyncio.AbstractEventLoop], _T]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, _T] = {}

    def get(self) -> _T:
        """The value of the running loop."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            self._forget_closed()
            value = self._values[loop] = self._make(loop)
        return value

    def values(self) -> list[_T]:
        """Those of the loops that are open."""
        self._forget_closed()
        return list(self._values.values())

    def _forget_closed(self) -> None:
        for loop in list(self._values):
            if loop.is_closed():
                self._values.pop(loop, None)


class WeakPerLoop(Generic[_T]):
    """Keeps neither loops nor values alive: a value lives as long as calls and timers that have it.

    A loop that is closed has no timers, so what it leaves in them goes with it.
    """

    def __init__(self, make: Callable[[asyncio.AbstractEventLoop], _T]) -> None:
        self._make = make
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_T]] = (
            weakref.WeakKeyDictionary()
        )
        # what was asked for last is nearly always asked for next: spares the look-up its cost
        self._latest: tuple[
            Callable[[], asyncio.AbstractEventLoop | None], Callable[[], _T | None]
        ] = (_nothing, _nothing)

    def get(self, loop: asyncio.AbstractEventLoop) -> _T:
        """The value of a loop."""
        known, found = self._latest
        value = found() if known() is loop else None
        if value is None:
            kept = self._values.get(loop, _nothing)
            value = kept()
            if value is None:
                value = self._make(loop)
                self._values[loop] = weakref.ref(value)
            self._latest = (weakref.ref(loop), weakref.ref(value))
        return value


def _nothing() -> None:
    """What a reference says whose object has gone."""
