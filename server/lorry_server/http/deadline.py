"""The deadline that a client gives a request, from the header to the engine.

`x-request-timeout-ms` is how long the client still waits when it sends the request. It counts from
the request's arrival, on the monotonic clock. Until the engine has the request this side keeps the
deadline; from then on the engine does, between two steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from lorry_server.errors import DeadlineExceededError, RequestError
from lorry_server.http.parsing import shown
from lorry_server.http.request_record import RequestRecord
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


@asynccontextmanager
async def before_deadline(
    record: RequestRecord, *, metrics: Metrics, phase: str = "preparing"
) -> AsyncIterator[None]:
    """End the block with `DeadlineExceededError` when the request's time is up.

    It is for what the engine does not do: before it has the request, reading, waiting for the
    adapter, tokenizing. What the block waits for is cancelled. `phase` is that of the error.
    """
    if record.deadline_s is None:
        yield
        return
    try:
        async with asyncio.timeout(record.deadline_s - time.perf_counter()) as timeout:
            yield
    except TimeoutError as exc:
        if not timeout.expired():
            raise
        metrics.past_deadline(phase)
        raise DeadlineExceededError(phase) from exc
