"""Whether the event loop has work, and on which core it is, for threads that compute to see.

A scheduler that is fair over milliseconds may set the loop aside in the middle of its work for a
thread that computes, and on many systems looks again only at its next tick, 4 ms later. A thread
that sees here that the loop waits for its core can yield at once.
"""

from __future__ import annotations

import asyncio
import ctypes
import platform
import selectors
import sys
import threading
from typing import Any

import numpy as np

# The words: 1 while the loop has work; the address of a word whose upper half is the core on which
# the loop's thread was last, kept by the kernel.
BUSY, CORE_ADDRESS = 0, 1
LOOP_ACTIVITY = np.zeros(2, np.int64)


class WatchedSelector(selectors.DefaultSelector):
    """Says in LOOP_ACTIVITY when the loop waits for events and when it handles them."""

    def __init__(self, core_address: int) -> None:
        super().__init__()
        LOOP_ACTIVITY[CORE_ADDRESS] = core_address

    def select(self, timeout: float | None = None) -> Any:
        LOOP_ACTIVITY[BUSY] = 0
        events = super().select(timeout)
        LOOP_ACTIVITY[BUSY] = 1
        return events

    def close(self) -> None:
        LOOP_ACTIVITY[BUSY] = 0
        super().close()


def new_watched_loop() -> asyncio.AbstractEventLoop:
    """An event loop for the main thread that says in LOOP_ACTIVITY when it is busy.

    A plain one where the system does not publish where a thread runs.
    """
    core_address = _core_address()
    if core_address is None:
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(WatchedSelector(core_address))


def _core_address() -> int | None:
    """The first word of the main thread's area of restartable sequences (Linux rseq(2), glibc 2.35).

    Only on x86-64 is a thread's identity its thread pointer, from which the area's place is counted.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    if threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)
    try:
        size = ctypes.c_uint.in_dll(libc, "__rseq_size").value
        offset = ctypes.c_ssize_t.in_dll(libc, "__rseq_offset").value
    except ValueError:
        return None
    return threading.get_ident() + offset if size > 0 else None
