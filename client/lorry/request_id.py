"""Ids of requests: 128 random bits, which nobody can guess and no two calls share."""

from __future__ import annotations

import os

_NUM_BYTES = 16
_NUM_DRAWN_AT_ONCE = 256


class RequestIds:
    """Draws randomness for many ids at a time: a system call for each is felt in every call.

    Taking from a list and adding to it are single steps, so threads need no lock. A forked process
    draws its own.
    """

    def __init__(self) -> None:
        self._drawn: list[str] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def new(self) -> str:
        """32 hexadecimal digits."""
        try:
            return self._drawn.pop()
        except IndexError:
            return self._draw()

    def _draw(self) -> str:
        digits = os.urandom(_NUM_BYTES * _NUM_DRAWN_AT_ONCE).hex()
        size = 2 * _NUM_BYTES
        ids = [digits[start : start + size] for start in range(0, len(digits), size)]
        drawn = ids.pop()
        self._drawn.extend(ids)
        return drawn

    def _forget(self) -> None:
        self._drawn = []


_IDS = RequestIds()
new_request_id = _IDS.new
