"""Ends attempts that take too long, with one greenlet for all of them and no timer per read."""

from __future__ import annotations

import time
from typing import Protocol

import gevent

_INTERVAL_S = 0.02


class Watched(Protocol):
    def check(self, now_ns: int) -> None:
        """Called every few milliseconds; must not block."""


class Watchdog:
    """Its greenlet lives while something is watched."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._greenlet: gevent.Greenlet | None = None

    def watch(self, watched: Watched) -> None:
        self._watched.add(watched)
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = gevent.spawn(self._run)

    def unwatch(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def _run(self) -> None:
        while self._watched:
            gevent.sleep(_INTERVAL_S)
            now_ns = time.perf_counter_ns()
            for watched in tuple(self._watched):
                watched.check(now_ns)


WATCHDOG = Watchdog()
