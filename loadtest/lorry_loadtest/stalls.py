"""Pauses inside answers, each with the step of the server that made it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lorry_loadtest import metrics
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.server_steps import ServerStep, steps_between
from lorry_loadtest.statistics.quantiles import quantile

STALL_MS = 250.0
STALL_MEDIANS = 5.0

_NS_PER_MS = 1e6
_MOST_OF_IT = 0.5


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """A gap of one answer: after its event `event`, from `start_ns`. `cause` is a sentence."""

    request_id: str | None
    index: int
    adapter: str | None
    event: int
    start_ns: int
    gap_ms: float
    cause: str
    step: int | None = None


def stall_limit_ms(records: Sequence[RequestRecord]) -> float:
    """A gap above this is a stall: five times the run's median gap, and at least 250 ms."""
    gaps = sorted(
        gap for record in records if record.phase == "run" for gap in metrics.chunk_gaps_ms(record)
    )
    return max(STALL_MS, STALL_MEDIANS * quantile(gaps, 0.5)) if gaps else STALL_MS


def find_stalls(records: Sequence[RequestRecord], steps: tuple[ServerStep, ...]) -> list[Stall]:
    """The longest first. Without a step log the cause says so."""
    limit_ms = stall_limit_ms(records)
    stalls = [
        stall
        for record in records
        if record.phase == "run"
        for stall in stalls_of(record, steps, limit_ms=limit_ms)
    ]
    return sorted(stalls, key=lambda stall: -stall.gap_ms)


def stalls_of(
    record: RequestRecord, steps: tuple[ServerStep, ...], *, limit_ms: float
) -> list[Stall]:
    """The gaps of one answer above `limit_ms`, in the order of time."""
    stalls = []
    for event, gap_ms in enumerate(metrics.chunk_gaps_ms(record)):
        if gap_ms <= limit_ms:
            continue
        start_ns = record.event_ns[event]
        step, cause = blame(start_ns, record.event_ns[event + 1], steps)
        stalls.append(
            Stall(
                request_id=record.request_id,
                index=record.index,
                adapter=record.adapter,
                event=event,
                start_ns=start_ns,
                gap_ms=gap_ms,
                cause=cause,
                step=None if step is None else step.index,
            )
        )
    return stalls


def blame(
    start_ns: int, end_ns: int, steps: tuple[ServerStep, ...]
) -> tuple[ServerStep | None, str]:
    """The step that took most of a gap, and in words what it did, or why there is none."""
    if not steps:
        return None, "the server gave no step log"
    if end_ns < steps[0].start_ns or start_ns > steps[-1].t_ns:
        return None, "outside the step log"
    found = steps_between(steps, start_ns, end_ns)
    if not found:
        return None, "the server made no step: it was stopped, or had nothing to do"
    longest = max(found, key=lambda step: _overlap_ns(step, start_ns, end_ns))
    busy_ns = sum(_overlap_ns(step, start_ns, end_ns) for step in found)
    if busy_ns < _MOST_OF_IT * (end_ns - start_ns):
        idle_ms = (end_ns - start_ns - busy_ns) / _NS_PER_MS
        return longest, f"no step ran for {idle_ms:,.0f} ms of it"
    if _overlap_ns(longest, start_ns, end_ns) < _MOST_OF_IT * busy_ns and len(found) > 2:
        return longest, f"{len(found)} steps without a token for it{_extra(found)}"
    return longest, describe_step(longest)


def describe_step(step: ServerStep) -> str:
    """One line: how long it took and what was in it."""
    inside = []
    if step.prefill_tokens:
        inside.append(f"{step.prefill_tokens:,} prompt tokens")
    if step.decode_tokens:
        inside.append(f"{step.decode_tokens:,} decoding")
    if step.adapter_attaches:
        plural = "s" if step.adapter_attaches > 1 else ""
        inside.append(f"{step.adapter_attaches} adapter{plural} attached")
    if step.preemptions:
        inside.append(f"{step.preemptions} preempted")
    if step.adapters:
        inside.append(f"{step.adapters} adapter{'s' if step.adapters > 1 else ''} in the batch")
    return f"step {step.index} took {step.step_ms:,.0f} ms: {', '.join(inside) or 'nothing in it'}"


def _extra(steps: Sequence[ServerStep]) -> str:
    preemptions = sum(step.preemptions for step in steps)
    return f", {preemptions} preemptions" if preemptions else ""


def _overlap_ns(step: ServerStep, start_ns: int, end_ns: int) -> int:
    return max(0, min(step.t_ns, end_ns) - max(step.start_ns, start_ns))
