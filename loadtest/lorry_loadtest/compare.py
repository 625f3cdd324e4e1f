"""`lorry loadtest compare A B`: two results of the same stream beside each other."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lorry_loadtest.gate.gate import GateResult, judge_gate
from lorry_loadtest.gate.limit import GateLimit, parse_gate
from lorry_loadtest.result import RunResult, read_result

# What is compared when no gate is given.
USUAL_GATE = "ttft_p50:+5%,ttft_p95:+10%,tpot_p50:+5%,tpot_p95:+5%,throughput:-5%"


class UnreadableResult(ValueError):
    """A file that is no result of a run; the text says which and why."""


def load_result(path: Path) -> RunResult:
    """`path` is a report.json, or the folder that has one. Raises UnreadableResult."""
    file = path / "report.json" if path.is_dir() else path
    try:
        return read_result(file)
    except OSError as exc:
        raise UnreadableResult(f"{file}: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise UnreadableResult(f"{file} is no result of a load test: {exc}") from exc


def compare(
    baseline: RunResult, candidate: RunResult, limits: tuple[GateLimit, ...] | None = None
) -> tuple[GateResult, ...]:
    """Raises NotComparable when they are not of the same stream.

    Goodput is by the candidate's objectives on both sides.
    """
    objectives = tuple(result.objective for result in candidate.levels[-1].objectives)
    return judge_gate(
        baseline.gated,
        candidate.gated,
        parse_gate(USUAL_GATE) if limits is None else limits,
        objectives=objectives,
    )
