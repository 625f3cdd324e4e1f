"""`WorkPlaces`: how many loads may compute at once, without letting one that hangs keep its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HAND_OVER_S = 5.0


class WorkPlaces:
    """`num_places` threads may be inside `one()` at once; more wait for their turn.

    Whoever has been inside for `hand_over_s` hands its place over: reading and preparing an
    adapter takes less, so it most likely waits for something outside, a network's file system for
    instance, and may do so for ever. It goes on, beyond the number.
    """

    def __init__(
        self,
        num_places: int,
        *,
        hand_over_s: float = HAND_OVER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_places = num_places
        self._hand_over_s = hand_over_s
        self._clock = clock
        self._condition = threading.Condition()
        self._entered_s: dict[object, float] = {}

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place for as long as the block runs."""
        place = object()
        with self._condition:
            while (wait_s := self._seconds_until_free()) > 0:
                self._condition.wait(wait_s)
            self._entered_s[place] = self._clock()
        try:
            yield
        finally:
            with self._condition:
                del self._entered_s[place]
                self._condition.notify()

    def _seconds_until_free(self) -> float:
        """0 when a place is free, else when the next one will be handed over at the latest."""
        now = self._clock()
        ages = [now - entered for entered in self._entered_s.values()]
        counted = [age for age in ages if age < self._hand_over_s]
        if len(counted) < self._num_places:
            return 0.0
        return self._hand_over_s - max(counted)
