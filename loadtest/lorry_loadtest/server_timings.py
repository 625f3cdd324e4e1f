"""The server's own split of one request's time, as far as it sent one."""

from __future__ import annotations

from typing import Any

import msgspec


class RequestTimings(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds on the server's clock; steps are indices into its step log.

    `queue_ms` ends at the first step, `prefill_ms` at the first token, `decode_ms` at the last.
    `adapter_load_ms` is what was spent on making the adapter ready, before the queue.
    """

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    adapter_load_ms: float = 0.0
    max_batch: int = 0
    preemptions: int = 0
    first_step: int | None = None
    last_step: int | None = None


def request_timings(sent: dict[str, Any] | None) -> RequestTimings | None:
    """None when the server sent none, or some of another shape."""
    if sent is None:
        return None
    known = {
        name: value
        for name in RequestTimings.__struct_fields__
        if (value := sent.get(name)) is not None
    }
    try:
        return msgspec.convert(known, RequestTimings)
    except msgspec.ValidationError:
        return None
