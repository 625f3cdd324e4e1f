"""Each request's own figures in columns: what a later run is paired with."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from lorry_loadtest import metrics
from lorry_loadtest.records import RequestRecord


class RequestFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One entry per attempt of the window, in the order of the schedule; latencies in ms.

    `index` is the request's place in the seeded stream and `plan` a checksum of what was asked, so
    that two runs are paired only where they asked the same. A latency that a request has not is
    None; `duration` is how long each attempt took, however it ended.
    """

    index: tuple[int, ...]
    plan: tuple[int, ...]
    ok: tuple[bool, ...]
    tokens: tuple[int, ...]
    ttft: tuple[float | None, ...]
    tpot: tuple[float | None, ...]
    e2e: tuple[float | None, ...]
    max_gap: tuple[float | None, ...]
    duration: tuple[float, ...]


def request_figures(cohort: Sequence[RequestRecord]) -> RequestFigures:
    """Latencies to the microsecond."""
    return RequestFigures(
        index=tuple(record.index for record in cohort),
        plan=tuple(_plan(record) for record in cohort),
        ok=tuple(record.outcome == "ok" for record in cohort),
        tokens=tuple(sum(record.event_tokens) for record in cohort),
        ttft=tuple(_rounded(metrics.ttft_ms(record)) for record in cohort),
        tpot=tuple(_rounded(metrics.tpot_ms(record)) for record in cohort),
        e2e=tuple(_rounded(metrics.e2e_ms(record)) for record in cohort),
        max_gap=tuple(_rounded(metrics.max_gap_ms(record)) for record in cohort),
        duration=tuple(round(metrics.duration_ms(record), 3) for record in cohort),
    )


def _plan(record: RequestRecord) -> int:
    asked = f"{record.adapter}/{record.route}/{record.max_tokens}/{record.prompt_hash}"
    return zlib.crc32(asked.encode())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
