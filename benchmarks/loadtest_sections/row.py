"""What was found of one client, and the table of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorry_loadtest.calibration import ServedTimes, compare_stamps
from lorry_loadtest.statistics.quantiles import quantile


@dataclass(frozen=True, slots=True)
class Figures:
    """Errors of stamps in milliseconds, over `num_events` events of `num_streams` streams.

    `num_lost` streams were asked for and did not come through whole. `events_per_s` is what the
    server wrote in the middle half of the time. `cpu_us_per_event` is None where the process does
    something else besides; `remark` is what else was found.
    """

    num_streams: int
    num_lost: int
    num_events: int
    events_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    cpu_us_per_event: float | None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """`figures` is None when the client was not measured, and then `note` says why."""

    client: str
    figures: Figures | None
    note: str = ""


def figures_of(
    served: Sequence[ServedTimes],
    stamps: dict[str, list[int]],
    *,
    num_asked: int,
    cpu_s: float,
) -> Figures:
    """Joins a client's stamps with what the server wrote, by the request's id.

    Raises ValueError when no stream came through.
    """
    pairs = [
        (stamps[one.request_id], one.sent_ns)
        for one in served
        if len(stamps.get(one.request_id, ())) == len(one.sent_ns) > 0
    ]
    if not pairs:
        raise ValueError(f"none of {num_asked} streams came through")
    ttft, gap = compare_stamps(pairs)
    num_events = sum(len(sent) for _, sent in pairs)
    return Figures(
        num_streams=len(pairs),
        num_lost=num_asked - len(pairs),
        num_events=num_events,
        events_per_s=middle_rate(served),
        ttft_p50_ms=quantile(ttft, 0.5),
        ttft_p99_ms=quantile(ttft, 0.99),
        gap_p50_ms=quantile(gap, 0.5),
        gap_p99_ms=quantile(gap, 0.99),
        cpu_us_per_event=cpu_s * 1e6 / num_events,
    )


def middle_rate(served: Sequence[ServedTimes]) -> float:
    """Events per second, without the time in which streams begin and that in which they run out."""
    sent_ns = [at_ns for one in served for at_ns in one.sent_ns]
    quarter_ns = (max(sent_ns) - min(sent_ns)) / 4
    begin_ns, end_ns = min(sent_ns) + quarter_ns, max(sent_ns) - quarter_ns
    return sum(begin_ns <= at_ns <= end_ns for at_ns in sent_ns) * 1e9 / (end_ns - begin_ns)


def table(rows: Sequence[Row]) -> str:
    """As Markdown. Errors in milliseconds, CPU time in microseconds per event."""
    lines = [
        "| client | TTFT error p50 | p99 | gap error p50 | p99 | CPU per event | events/s "
        "| events | streams (lost) | |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(row: Row) -> str:
    found = row.figures
    if found is None:
        return f"| {row.client} | - | - | - | - | - | - | - | - | not measured: {row.note} |"
    cpu = "-" if found.cpu_us_per_event is None else f"{found.cpu_us_per_event:.0f} µs"
    return (
        f"| {row.client} | {found.ttft_p50_ms:.3f} | {found.ttft_p99_ms:.3f} "
        f"| {found.gap_p50_ms:.3f} | {found.gap_p99_ms:.3f} | {cpu} | {found.events_per_s:,.0f} "
        f"| {found.num_events:,} | {found.num_streams:,} ({found.num_lost}) "
        f"| {'; '.join(filter(None, (row.note, found.remark)))} |"
    )
