"""How late threads of this process were let run: what a limit of time may be exceeded by then."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

_TICK_S = 0.005


class ThreadLag:
    """`with ThreadLag() as lag:` measures; `lag.longest_s` is the worst of it."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._tick)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._is_over.is_set():
            due = time.monotonic() + _TICK_S
            time.sleep(_TICK_S)
            self.longest_s = max(self.longest_s, time.monotonic() - due)
