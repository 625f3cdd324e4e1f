"""`FailureMemory`: loads that failed a moment ago are not tried again at once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_FAILURES = 256


@dataclass(frozen=True, slots=True)
class Failure:
    """`message` is for whoever asks; `is_missing` means that there is no such adapter."""

    message: str
    is_missing: bool
    at_s: float


class FailureMemory:
    """The last failures by key, each for `memory_s` and at most `MAX_FAILURES` of them."""

    def __init__(self, memory_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.memory_s = memory_s
        self._clock = clock
        self._failures: OrderedDict[str, Failure] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def remember(self, key: str, message: str, *, is_missing: bool = False) -> None:
        if self.memory_s <= 0:
            return
        self._failures.pop(key, None)
        self._failures[key] = Failure(message, is_missing, self._clock())
        if len(self._failures) > MAX_FAILURES:
            self._failures.popitem(last=False)

    def recall(self, key: str) -> tuple[Failure, float] | None:
        """Return the failure of `key` and its age in seconds, while it is remembered."""
        failure = self._failures.get(key)
        if failure is None:
            return None
        age_s = self._clock() - failure.at_s
        if age_s >= self.memory_s:
            del self._failures[key]
            return None
        return failure, age_s

    def forget(self, key: str) -> None:
        self._failures.pop(key, None)
