"""Other tools' figures, recomputed from our records by their own formulas.

The same word means another thing in each tool. For one answer of eleven tokens in half a second,
one of them prints 50 ms per token and another 136. With these figures a run of ours can be laid
beside one of theirs; our own are in `metrics`. Formulas as read from the sources of vLLM 0.32
(`vllm bench serve`), guidellm of August 2026 and AIPerf of October 2025.
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
    """One row of the tool's table. These tools print percentiles of any number of samples."""

    name: str
    unit: str
    n: int
    mean: float
    p50: float
    p99: float


class CompatTable(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens_per_s` by the tool's own window."""

    tool: Tool
    num_requests: int
    tokens_per_s: float
    figures: tuple[CompatFigure, ...]


def compat_table(tool: Tool, records: Sequence[RequestRecord]) -> CompatTable:
    """What `tool` would have printed for the finished ones of `records`, which is the whole run."""
    answers = [
        record
        for record in records
        if record.outcome == "ok" and record.event_user_ns and record.t_send_ns is not None
    ]
    # only AIPerf's run ends with the last token; for the others the stream has to end
    figures, until_done = {
        "vllm": (_vllm, True),
        "guidellm": (_guidellm, True),
        "aiperf": (_aiperf, False),
    }[tool]
    return CompatTable(
        tool=tool,
        num_requests=len(answers),
        tokens_per_s=_rate(answers, until_done=until_done),
        figures=(
            _figure("TTFT", [_since_send(record, 0) for record in answers]),
            *figures(answers),
        ),
    )


def _vllm(answers: Sequence[RequestRecord]) -> tuple[CompatFigure, ...]:
    """ITL are chunk gaps. An answer of one token counts as a TPOT of 0 in its goodput, and not in
    its table."""
    return (
        _figure("TPOT", [mean for mean, _ in _means_after_first(answers)]),
        _figure("ITL", [gap for record in answers for gap in _gaps(record)]),
        _figure("E2EL", [_since_send(record, -1) for record in answers]),
    )


def _guidellm(answers: Sequence[RequestRecord]) -> tuple[CompatFigure, ...]:
    """Its ITL is a mean per request, weighted by tokens, and its TPOT contains the TTFT."""
    itls = [mean for mean, count in _means_after_first(answers) for _ in range(count)]
    return (
        _figure("ITL", itls),
        _figure("TPOT", [_since_send(r, -1) / max(1, r.completion_tokens) for r in answers]),
        _figure("request latency", [_until_done(record) for record in answers]),
    )


def _aiperf(answers: Sequence[RequestRecord]) -> tuple[CompatFigure, ...]:
    """Its ITL is our TPOT with the first event counted as one token; ICL are chunk gaps."""
    return (
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


def _rate(answers: Sequence[RequestRecord], *, until_done: bool) -> float:
    if not answers:
        return 0.0
    begin = min(record.t_send_ns or 0 for record in answers)
    ends = [record.t_end_ns if until_done else record.event_user_ns[-1] for record in answers]
    num_tokens = sum(record.completion_tokens for record in answers)
    return num_tokens * 1e9 / (max(ends) - begin)


def _figure(name: str, values: Sequence[float]) -> CompatFigure:
    ordered = sorted(values)
    if not ordered:
        return CompatFigure(name=name, unit="ms", n=0, mean=0.0, p50=0.0, p99=0.0)
    return CompatFigure(
        name=name,
        unit="ms",
        n=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=quantile(ordered, 0.5),
        p99=quantile(ordered, 0.99),
    )
