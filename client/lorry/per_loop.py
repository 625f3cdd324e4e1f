"""One value for each event loop: made when a loop first asks for it, dropped once it is closed."""

from __future__ import annotations

import asyncio
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
