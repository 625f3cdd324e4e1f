"""One request's time, from its place in the schedule to the user: client and server joined."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from lorry_loadtest import metrics
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.server_timings import RequestTimings, request_timings

PARTS = (
    "connect",
    "client",
    "prepare",
    "adapter",
    "queue",
    "prefill",
    "decode",
    "finish",
    "network",
    "user",
)

MEANING = {
    "connect": "opening a connection",
    "client": "between the schedule and the first byte sent",
    "prepare": "the server reads the request",
    "adapter": "loading the adapter",
    "queue": "waiting for a turn on the server",
    "prefill": "reading the prompt, to the first token",
    "decode": "first token to last, on the server",
    "finish": "from the last token to the end of the answer, on the server",
    "network": "the least that any request of the run needed on top: both ways, HTTP, event loops",
    "user": "from the kernel's receive buffer to this program, after the last token",
}

CLOSED_SHARE = 0.02
MOST_TICKS = 300


class Waterfall(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds by part, in the order of `PARTS`; `user` comes after `e2e_ms`.

    `residual_ms` is what of `e2e_ms` no part explains. Below zero, client and server count some
    time twice. `tokens_ms` is when each event arrived, from the start, at most `MOST_TICKS` of them
    evenly spread; only the waterfalls that are drawn have it.
    """

    request_id: str | None
    index: int
    adapter: str | None
    start_ns: int
    parts: dict[str, float]
    e2e_ms: float
    residual_ms: float
    tokens_ms: tuple[float, ...] = ()

    @property
    def residual_share(self) -> float:
        return abs(self.residual_ms) / self.e2e_ms if self.e2e_ms > 0 else 0.0

    @property
    def closes(self) -> bool:
        return self.residual_share < CLOSED_SHARE


def waterfalls(records: Sequence[RequestRecord]) -> list[Waterfall]:
    """Of the finished requests for which the server sent its timings, in the order given.

    The network's part is measured on the run itself: the smallest remainder that any of them has,
    so that a request whose remainder is larger shows the rest as its residual.
    """
    joined = [
        (record, timings)
        for record in records
        if record.outcome == "ok"
        and record.event_ns
        and record.t_send_ns is not None
        and (timings := request_timings(record.server_timings)) is not None
    ]
    if not joined:
        return []
    floor = max(0.0, min(_remainder(record, timings) for record, timings in joined))
    return [_waterfall(record, timings, network_ms=floor) for record, timings in joined]


def with_ticks(fall: Waterfall, record: RequestRecord) -> Waterfall:
    """The waterfall of `record` with the arrivals of its events, to a hundredth of a millisecond."""
    stamps = record.event_ns
    stride = math.ceil(len(stamps) / MOST_TICKS)
    ticks = (round((stamp - fall.start_ns) / 1e6, 2) for stamp in stamps[:: max(1, stride)])
    return msgspec.structs.replace(fall, tokens_ms=tuple(ticks))


def share_that_closes(falls: Sequence[Waterfall]) -> float | None:
    """How many of them leave less than 2 % of their end to end unexplained; None without any."""
    return sum(fall.closes for fall in falls) / len(falls) if falls else None


def _waterfall(record: RequestRecord, timings: RequestTimings, *, network_ms: float) -> Waterfall:
    late_ms = metrics.delivery_ms(record)
    parts = {**_own_parts(record, timings), "network": network_ms}
    e2e = metrics.e2e_ms(record) or 0.0
    return Waterfall(
        request_id=record.request_id,
        index=record.index,
        adapter=record.adapter,
        start_ns=record.t_sched_ns,
        parts={**parts, "user": late_ms[-1] if late_ms else 0.0},
        e2e_ms=e2e,
        residual_ms=e2e - sum(parts.values()),
    )


def _own_parts(record: RequestRecord, timings: RequestTimings) -> dict[str, float]:
    connect = metrics.connect_ms(record)
    return {
        "connect": connect,
        "client": (metrics.lag_ms(record) or 0.0) - connect,
        "prepare": timings.prepare_ms,
        "adapter": timings.adapter_load_ms,
        "queue": timings.turn_ms,
        "prefill": timings.prefill_ms,
        "decode": timings.decode_ms,
        "finish": timings.finish_ms,
    }


def _remainder(record: RequestRecord, timings: RequestTimings) -> float:
    return (metrics.e2e_ms(record) or 0.0) - sum(_own_parts(record, timings).values())
