"""One record per attempt: everything that the figures are computed from, as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from lorry.types.common import Timings
from lorry_loadtest.outcomes import Outcome


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. Times are nanoseconds on the monotonic clock, from the start of the run.

    `event_ns[j]` is when the bytes of the j-th token-bearing event arrived, before they were
    parsed, and `event_tokens[j]` is how many tokens it carried. `completion_tokens` is the
    server's count (`usage`); without one it is the sum of `event_tokens`. `t_send_ns` is None when
    no byte was sent, and `t_end_ns` is the end of the stream, or of the attempt when it failed.
    """

    level: int
    worker: int
    user: int
    request: int
    adapter: str | None
    prompt_words: int
    max_tokens: int
    outcome: Outcome
    error: str | None = None
    http_status: int | None = None
    connection_reused: bool = False
    t_sched_ns: int
    t_send_ns: int | None = None
    t_end_ns: int
    event_ns: tuple[int, ...] = ()
    event_tokens: tuple[int, ...] = ()
    tokens_stated: bool = False
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int = 0
    finish_reason: str | None = None
    timings: Timings | None = None


def write_records(path: Path, records: Iterable[RequestRecord]) -> None:
    """Writes one JSON object per line, in the order given."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        for record in records:
            file.write(encoder.encode(record))
            file.write(b"\n")


def read_records(path: Path) -> list[RequestRecord]:
    """Reads what `write_records` wrote; msgspec.ValidationError names a field that is wrong."""
    decoder = msgspec.json.Decoder(RequestRecord)
    with path.open("rb") as file:
        return [decoder.decode(line) for line in file]
