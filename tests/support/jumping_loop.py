"""An event loop that does not wait: its clock jumps to the next timer when nothing else is due."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at its files without waiting, and tells its loop how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            assert timeout is not None, "the test waits for what will never come"
            self.now += timeout
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """Seconds of this loop's clock pass at once."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def block(self, duration_s: float) -> None:
        """As if a callback had kept the loop busy for so long."""
        self._clock.now += duration_s


def run_jumping(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in a new loop whose time costs nothing."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)
