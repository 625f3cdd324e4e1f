"""One record per attempt: everything that the figures are computed from, as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from lorry.types.common import Timings
from lorry_loadtest.outcomes import Outcome
from lorry_loadtest.phases import Phase
from lorry_loadtest.routes import Route


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt. Times are nanoseconds on one monotonic clock, from the start of the run.

    What was planned: `index` is the request's place in the run's one seeded stream, which all
    workers share; `level` the number of streams of a sweep, 0 elsewhere. `prompt_tokens_planned`
    counts words, of which the tokenizers of English make about one token each. `prompt_hash` is
    of the text that was sent, and `canary` names the known answer that this one is compared with.

    When: `t_sched_ns` is the planned arrival, in a closed loop the instant at which the user became
    ready, and `t_begin_ns` when the client turned to it; until then it is the client that is late.
    `t_conn_ns` is None on a connection that was used before, `t_send_ns` when no byte was
    sent, `t_done_ns` when the stream was not seen to end. `t_end_ns` is the end of the attempt,
    however it ended.

    Token-bearing event j carried `event_tokens[j]` tokens. `event_user_ns[j]` is when the read that
    brought it returned, and `event_kernel_ns[j]` when the kernel received the last byte of that
    read; it is empty unless every read had such a stamp, which is what `kernel_stamps` says. Events
    of one read share both. `tokens_stated` tells that the server said how many tokens each had.

    What came: `usage_*` and `cached_tokens` are the server's counts, `server_timings` its split of
    the time as it sent it, `text_hash` of the text. `content_encoding` is what it was
    compressed with although nothing was to be; None is the usual. `client` is `native` or `sdk`.

    Records hold no cycles, so the garbage collector need not walk them: with a hundred thousand
    of them that would stop the client for tens of milliseconds at a time.
    """

    index: int
    phase: Phase = "run"
    scenario: str = ""
    client: str = "native"
    level: int = 0
    worker: int = 0
    user: int = 0
    adapter: str | None
    route: Route = "completions"
    prompt_tokens_planned: int
    max_tokens: int
    prompt_hash: str = ""
    canary: str | None = None
    t_sched_ns: int
    t_begin_ns: int | None = None
    t_send_ns: int | None = None
    t_conn_ns: int | None = None
    event_kernel_ns: tuple[int, ...] = ()
    event_user_ns: tuple[int, ...] = ()
    event_tokens: tuple[int, ...] = ()
    t_done_ns: int | None = None
    t_end_ns: int
    outcome: Outcome
    error: str | None = None
    http_status: int | None = None
    finish_reason: str | None = None
    usage_prompt: int | None = None
    usage_completion: int | None = None
    cached_tokens: int | None = None
    text_hash: str | None = None
    request_id: str | None = None
    server_timings: dict[str, Any] | None = None
    reused_connection: bool = False
    kernel_stamps: bool = False
    num_reads: int = 0
    tokens_stated: bool = False
    content_encoding: str | None = None

    @property
    def event_ns(self) -> tuple[int, ...]:
        """When each event arrived: the kernel's stamps where there are some."""
        return self.event_kernel_ns or self.event_user_ns

    @property
    def completion_tokens(self) -> int:
        """The server's count, or without one what the events carried."""
        return sum(self.event_tokens) if self.usage_completion is None else self.usage_completion

    @property
    def timings(self) -> Timings | None:
        """`server_timings` where they have lorry's shape; other servers send other ones."""
        if self.server_timings is None:
            return None
        try:
            return msgspec.convert(self.server_timings, Timings)
        except msgspec.ValidationError:
            return None


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
