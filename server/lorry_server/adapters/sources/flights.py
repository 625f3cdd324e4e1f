"""`Flights`: work that several threads want at once is done by the first and shared by all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from lorry_server.adapters.sources.patience import POLL_S, FetchCancelledError

T = TypeVar("T")


class Flights(Generic[T]):
    """Keeps nothing of what has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight[T]] = {}

    def join(
        self, key: str, work: Callable[[Callable[[], bool]], T], *, cancelled: Callable[[], bool]
    ) -> T:
        """Return `work(is_abandoned)`, or what another thread's call for `key` returns.

        `is_abandoned` is true when everybody who waits is cancelled: whoever came first goes on
        for the others. Raises what the work raises; FetchCancelledError soon after `cancelled()`.
        """
        while True:
            with self._lock:
                flight = self._flights.get(key)
                is_first = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight()
                flight.passengers.append(cancelled)
            if is_first:
                self._fly(key, flight, work)
            else:
                _wait(flight, key, cancelled)
            if isinstance(flight.error, FetchCancelledError) and not cancelled():
                continue  # everybody had left when this one came
            return flight.outcome()

    def num_waiting(self, key: str) -> int:
        """How many are waiting for `key`, those included who have left meanwhile."""
        with self._lock:
            flight = self._flights.get(key)
            return 0 if flight is None else len(flight.passengers)

    def _fly(self, key: str, flight: _Flight[T], work: Callable[[Callable[[], bool]], T]) -> None:
        try:
            flight.result = (work(flight.is_abandoned),)
        except BaseException as exc:
            flight.error = exc
        finally:
            with self._lock:
                del self._flights[key]
            flight.landed.set()


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.passengers: list[Callable[[], bool]] = []
        self.landed = threading.Event()
        self.result: tuple[T] | None = None
        self.error: BaseException | None = None

    def is_abandoned(self) -> bool:
        return all(cancelled() for cancelled in tuple(self.passengers))

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        assert self.result is not None, "landed"
        return self.result[0]


def _wait(flight: _Flight[T], key: str, cancelled: Callable[[], bool]) -> None:
    while not flight.landed.wait(POLL_S):
        if cancelled():
            raise FetchCancelledError(f"fetching {key!r} was cancelled")
