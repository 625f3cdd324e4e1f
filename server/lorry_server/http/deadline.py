"""The deadline that a client gives a request, from the header to the engine.

`x-request-timeout-ms` is how long the client still waits when it sends the request. It counts from
the request's arrival, on the monotonic clock. Until the engine has the request this side keeps the
deadline; from then on the engine does, between two steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from lorry_server.errors import DeadlineExceededError, RequestError
from lorry_server.http.parsing import shown
from lorry_server.metrics import Metrics

HEADER = "x-request-timeout-ms"
MAX_TIMEOUT_MS = 10**12

_RAW_HEADER = HEADER.encode()


def read_timeout_ms(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Read the header among raw `headers`; None where it is not sent. Raises RequestError.

    0 is allowed: a client whose time is up when it sends is told so.
    """
    given = [value for name, value in headers if name == _RAW_HEADER]
    if not given:
        return None
    text = given[0].decode("latin-1")
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TIMEOUT_MS))
    if len(given) > 1 or not is_number or int(text) > MAX_TIMEOUT_MS:
        wrong = text if len(given) == 1 else [value.decode("latin-1") for value in given]
        raise RequestError(
            f"`{HEADER}` must be one whole number of milliseconds from 0 to {MAX_TIMEOUT_MS}. "
            f"Given: {shown(wrong)}",
            param=HEADER,
            code="invalid_value",
        )
    return int(text)


class Deadline:
    """When a request's time is over: at `at_s`, on the clock of `time.perf_counter`.

    Then all that is done for the request ends, unless the deadline was lifted: others wait for the
    same answer. From there on only the request's own connection keeps to it.
    """

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        self.is_lifted = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def remaining_s(self) -> float:
        return self.at_s - time.perf_counter()

    def lift(self) -> None:
        """Let what is done for the request go on. The second time does nothing."""
        self.is_lifted = True
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def when_lifted(self, listener: Callable[[], None]) -> None:
        """Have `listener` called once, when it is lifted or now if it has been."""
        if self.is_lifted:
            listener()
        else:
            self._listeners.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Call `listener` no more; harmless when it has been called."""
        if listener in self._listeners:
            self._listeners.remove(listener)


@asynccontextmanager
async def before_deadline(
    deadline: Deadline | None, *, metrics: Metrics, phase: str = "preparing"
) -> AsyncIterator[None]:
    """End the block with `DeadlineExceededError` when the request's time is up.

    It is for what the engine does not do: before it has the request, reading, waiting for the
    adapter, tokenizing. What the block waits for is cancelled. `phase` is that of the error.
    """
    if deadline is None or deadline.is_lifted:
        yield
        return

    def lift() -> None:
        if not timeout.expired():
            timeout.reschedule(None)

    try:
        async with asyncio.timeout(deadline.remaining_s) as timeout:
            deadline.when_lifted(lift)
            yield
    except TimeoutError as exc:
        if not timeout.expired():
            raise
        metrics.past_deadline(phase)
        raise DeadlineExceededError(phase) from exc
    finally:
        deadline.forget(lift)
