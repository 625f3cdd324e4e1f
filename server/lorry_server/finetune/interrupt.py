"""Ctrl-C as a request to stop at the next good moment; the second one stops at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Interrupt:
    """`signum` is that of the signal that asked, None while none did."""

    signum: int | None = None


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """While this is open, the first SIGINT or SIGTERM is noted. For the main thread only."""
    interrupt = Interrupt()

    def note(signum: int, frame: FrameType | None) -> None:
        if interrupt.signum is not None:
            raise KeyboardInterrupt
        interrupt.signum = signum

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, note)) for number in signals]
    try:
        yield interrupt
    finally:
        for number, handler in before:
            signal.signal(number, handler)
