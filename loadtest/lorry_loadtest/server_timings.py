"""The server's own split of one request's time, as far as it sent one."""

from __future__ import annotations

from typing import Any

import msgspec

from lorry_loadtest.known_part import known_part


class RequestTimings(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds on the server's clock; steps are indices into its step log.

    `queue_ms` runs from arrival to the first step, `prefill_ms` from there to the first token,
    `decode_ms` to the last, and `finish_ms` until the end of the answer was written: together they
    are the server's time. Within `queue_ms` are `prepare_ms`, in which the request was read and its
    prompt made into tokens, and `adapter_load_ms`, in which its adapter was made ready. `steps` is
    how many of those from `first_step` to `last_step` computed something of it.
    """

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    finish_ms: float = 0.0
    prepare_ms: float = 0.0
    adapter_load_ms: float = 0.0
    steps: int = 0
    max_batch: int = 0
    preemptions: int = 0
    first_step: int | None = None
    last_step: int | None = None

    @property
    def turn_ms(self) -> float:
        """What of the queue was neither of its parts: the wait for a turn."""
        return self.queue_ms - self.prepare_ms - self.adapter_load_ms


def request_timings(sent: dict[str, Any] | None) -> RequestTimings | None:
    """None when the server sent none, or some of another shape."""
    if sent is None:
        return None
    try:
        return known_part(sent, RequestTimings)
    except msgspec.ValidationError:
        return None
