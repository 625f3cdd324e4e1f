"""`lorry loadtest explain`: where one request's time went, in a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest import metrics
from lorry_loadtest.headline import format_ms
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.server_steps import ServerStep
from lorry_loadtest.server_timings import request_timings
from lorry_loadtest.stalls import stall_limit_ms, stalls_of
from lorry_loadtest.waterfall import MEANING, PARTS, Waterfall, waterfalls

_BAR = 40


class UnknownRequest(ValueError):
    """No record has that id; the text names some that there are."""


def explain(
    request_id: str, records: Sequence[RequestRecord], steps: tuple[ServerStep, ...]
) -> str:
    """`request_id` is the server's id, or the index in the stream.

    Raises UnknownRequest when there is neither.
    """
    record = _find(request_id, records)
    lines = [
        f"Request {record.request_id or record.index} ({record.adapter or 'base model'}), "
        f"{record.outcome}: {record.completion_tokens} of {record.max_tokens} tokens"
    ]
    if record.error:
        lines.append(f"  {record.error}")
    place = (record.index, record.t_sched_ns)
    falls = {(fall.index, fall.start_ns): fall for fall in waterfalls(records)}
    fall = falls.get(place)
    if fall is None:
        lines.extend(_client_side(record))
    else:
        lines.extend(_bars(fall))
        lines.extend(_steps_of(record))
    limit_ms = stall_limit_ms(records)
    stalls = stalls_of(record, steps, limit_ms=limit_ms)
    for stall in stalls:
        after_ms = (stall.start_ns - record.t_sched_ns) / 1e6
        lines.append(
            f"  stall of {format_ms(stall.gap_ms)} after {format_ms(after_ms)}: {stall.cause}"
        )
    if not stalls:
        lines.append("  no stall")
    return "\n".join(lines)


def _find(request_id: str, records: Sequence[RequestRecord]) -> RequestRecord:
    for record in records:
        if record.request_id == request_id or str(record.index) == request_id:
            return record
    some = ", ".join(record.request_id or str(record.index) for record in records[:3])
    raise UnknownRequest(f"no request {request_id!r} in the records; there are: {some or 'none'}")


def _bars(fall: Waterfall) -> list[str]:
    lines = []
    begin = 0.0
    scale = _BAR / max(fall.e2e_ms, 1e-9)
    for part in PARTS:
        value = fall.parts[part]
        offset = min(_BAR, max(0, round(begin * scale)))
        width = max(1, round(value * scale)) if value > 0 else 0
        bar = (" " * offset + "#" * min(width, _BAR - offset)).ljust(_BAR)
        lines.append(f"  {part:<8} {format_ms(value):>9}  |{bar}|  {MEANING[part]}")
        begin += value
    closes = "closes" if fall.closes else "does NOT close"
    lines.append(
        f"  end to end {format_ms(fall.e2e_ms)}; {format_ms(fall.residual_ms)} unexplained "
        f"({fall.residual_share:.1%}): the waterfall {closes}"
    )
    return lines


def _steps_of(record: RequestRecord) -> list[str]:
    """Which steps of the server's log computed it."""
    timings = request_timings(record.server_timings)
    if timings is None or timings.first_step is None or timings.last_step is None:
        return []
    return [
        f"  in {timings.steps} of the server's steps {timings.first_step} to {timings.last_step}, "
        f"with at most {timings.max_batch} sequences in one"
    ]


def _client_side(record: RequestRecord) -> list[str]:
    named = {
        "lag": metrics.lag_ms(record),
        "TTFT": metrics.ttft_ms(record),
        "TPOT": metrics.tpot_ms(record),
        "end to end": metrics.e2e_ms(record),
    }
    told = ", ".join(f"{name} {format_ms(v)}" for name, v in named.items() if v is not None)
    return [f"  {told or 'no token came'}; the server sent no timings"]
