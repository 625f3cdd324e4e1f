"""Giving back to the system what loading a model has left in the heap."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Release the free pages of the C library's heap, where it is glibc; else do nothing.

    Quantizing a checkpoint passes its size through the heap, and glibc keeps what is freed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
