"""Other tools' figures, recomputed from our records by their own formulas.

The same word means another thing in each tool. For one answer of eleven tokens in half a second,
one of them prints 50 ms per token and another 136. With these figures a run of ours can be laid
beside one of theirs; our own are in `metrics`. The formulas of vLLM 0.32 are checked against a file
of its own (`vllm bench serve --save-result`), those of guidellm of August 2026 and of AIPerf of
October 2025 are as read from their sources. Records have no stamp of a chunk without a token: in a
chat vLLM takes the one that only names the role for the first token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from lorry_loadtest.records import RequestRecord
from lorry_loadtest.statistics.quantiles import quantile

Tool = Literal["vllm", "guidellm", "aiperf"]
TOOLS: tuple[Tool, ...] = get_args(Tool)

_NS_PER_MS = 1e6


class CompatFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the tool's table. These tools print percentiles of any number of samples; `std` is
    of the samples, not of what they are drawn from."""

    name: str
    unit: str
    n: int
    mean: float
    std: float
    p50: float
    p99: float


class CompatTable(msgspec.Struct, frozen=True, kw_only=True):
    """`num_requests` were answered, `num_failed` not. The rates are of what was answered, over the
    tool's own window of `duration_s`."""

    tool: Tool
    num_requests: int
    num_failed: int
    duration_s: float
    requests_per_s: float
    tokens_per_s: float
    figures: tuple[CompatFigure, ...]


def compat_table(tool: Tool, records: Sequence[RequestRecord], *, start_ns: int = 0) -> CompatTable:
    """What `tool` would have printed for `records`, which is a whole run that began at `start_ns`."""
    answers = [
        record
        for record in records
        if record.outcome == "ok" and record.event_user_ns and record.t_send_ns is not None
    ]
    figures = {"vllm": _vllm, "guidellm": _guidellm, "aiperf": _aiperf}[tool](answers)
    duration_s = _window_ns(tool, records, answers, start_ns=start_ns) / 1e9
    num_tokens = sum(record.completion_tokens for record in answers)
    return CompatTable(
        tool=tool,
        num_requests=len(answers),
        num_failed=len(records) - len(answers),
        duration_s=duration_s,
        requests_per_s=len(answers) / duration_s if answers else 0.0,
        tokens_per_s=num_tokens / duration_s if answers else 0.0,
        figures=figures,
    )


def _window_ns(
    tool: Tool,
    records: Sequence[RequestRecord],
    answers: Sequence[RequestRecord],
    *,
    start_ns: int,
) -> int:
    """vLLM's begins before the first request is due and ends when nothing is open, failures
    included; the others' begin with the first request that was answered."""
    if tool == "vllm":
        return max((record.t_end_ns for record in records), default=start_ns) - start_ns
    if not answers:
        return 0
    ends = [r.event_user_ns[-1] if tool == "aiperf" else r.t_end_ns for r in answers]
    return max(ends) - min(record.t_send_ns or 0 for record in answers)


def _vllm(answers: Sequence[RequestRecord]) -> tuple[CompatFigure, ...]:
    """ITL are chunk gaps. An answer of one token counts as a TPOT of 0 in its goodput, and not in
    its table."""
    return (
        _figure("TTFT", [_since_send(record, 0) for record in answers]),
        _figure("TPOT", [mean for mean, _ in _means_after_first(answers)]),
        _figure("ITL", [gap for record in answers for gap in _gaps(record)]),
        _figure("E2EL", [_since_send(record, -1) for record in answers]),
    )


def _guidellm(answers: Sequence[RequestRecord]) -> tuple[CompatFigure, ...]:
    """Its ITL is a mean per request, weighted by tokens, and its TPOT contains the TTFT."""
    itls = [mean for mean, count in _means_after_first(answers) for _ in range(count)]
    return (
        _figure("TTFT", [_since_send(record, 0) for record in answers]),
        _figure("ITL", itls),
        _figure("TPOT", [_since_send(r, -1) / max(1, r.completion_tokens) for r in answers]),
        _figure("request latency", [_until_done(record) for record in answers]),
    )


def _aiperf(answers: Sequence[RequestRecord]) -> tuple[CompatFigure, ...]:
    """Its ITL is our TPOT with the first event counted as one token; ICL are chunk gaps."""
    return (
        _figure("TTFT", [_since_send(record, 0) for record in answers]),
        _figure("ITL", [mean for mean, _ in _means_after_first(answers)]),
        _figure("ICL", [gap for record in answers for gap in _gaps(record)]),
        _figure("request latency", [_since_send(record, -1) for record in answers]),
    )


def _means_after_first(answers: Sequence[RequestRecord]) -> list[tuple[float, int]]:
    """Of each answer of several tokens: the mean time of those after the first, and their number."""
    return [
        ((_since_send(record, -1) - _since_send(record, 0)) / count, count)
        for record in answers
        if (count := record.completion_tokens - 1) > 0
    ]


def _since_send(record: RequestRecord, event: int) -> float:
    """By the stamp of the program, as these tools take it."""
    assert record.t_send_ns is not None  # only such records are in a table
    return (record.event_user_ns[event] - record.t_send_ns) / _NS_PER_MS


def _until_done(record: RequestRecord) -> float:
    assert record.t_send_ns is not None  # only such records are in a table
    end_ns = record.t_end_ns if record.t_done_ns is None else record.t_done_ns
    return (end_ns - record.t_send_ns) / _NS_PER_MS


def _gaps(record: RequestRecord) -> list[float]:
    stamps = record.event_user_ns
    return [(stamps[j] - stamps[j - 1]) / _NS_PER_MS for j in range(1, len(stamps))]


def _figure(name: str, values: Sequence[float]) -> CompatFigure:
    ordered = sorted(values)
    if not ordered:
        return CompatFigure(name=name, unit="ms", n=0, mean=0.0, std=0.0, p50=0.0, p99=0.0)
    mean = math.fsum(ordered) / len(ordered)
    return CompatFigure(
        name=name,
        unit="ms",
        n=len(ordered),
        mean=mean,
        std=math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / len(ordered)),
        p50=quantile(ordered, 0.5),
        p99=quantile(ordered, 0.99),
    )
