"""The options that say what is asked of a run: which loads, which objectives, which baseline."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lorry_loadtest.compare import USUAL_GATE, load_result
from lorry_loadtest.gate.limit import GateLimit, parse_gate
from lorry_loadtest.load_points import LoadPoint, parse_sweep
from lorry_loadtest.metrics_compat import TOOLS, Tool
from lorry_loadtest.result import RunResult
from lorry_loadtest.slo import Objective, parse_objectives


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """`finds_max` asks for the largest rate at which `objectives` hold.

    `limits` are judged against `baseline`; there are none without it.
    """

    objectives: tuple[Objective, ...] = ()
    sweep: tuple[LoadPoint, ...] = ()
    finds_max: bool = False
    baseline: RunResult | None = None
    limits: tuple[GateLimit, ...] = ()
    compat: Tool | None = None
    junit: Path | None = None
    markdown: Path | None = None


def add_analysis_options(parser: Any) -> None:
    """All of them, to an argparse parser: those that make several runs, and `add_judging_options`."""
    add_judging_options(parser)
    parser.add_argument(
        "--sweep",
        default="",
        metavar="RANGE",
        help="loads to go up and down again: concurrency:1..64:log2 or rate:1..8:+1",
    )
    parser.add_argument(
        "--find-max",
        default="",
        metavar="LIST",
        help="search the highest rate of arrivals at which objectives such as ttft_p95<500ms hold",
    )


def add_judging_options(parser: Any) -> None:
    """What one run is judged by, and where the judgement goes; to an argparse parser or locust's."""
    parser.add_argument(
        "--slo",
        default="",
        metavar="LIST",
        help="objectives such as ttft_p95<500ms,tpot_p95<60ms; the report tells what meets them",
    )
    parser.add_argument(
        "--baseline",
        default="",
        metavar="FILE",
        help="report.json of an earlier run of the same stream, to compare with",
    )
    parser.add_argument(
        "--gate",
        default="",
        metavar="LIST",
        help="how much worse than the baseline is allowed, such as tpot_p95:+5%%,goodput:-3%%",
    )
    parser.add_argument(
        "--metrics-compat",
        default="",
        metavar="TOOL",
        help=f"also print the figures by the formulas of {', '.join(TOOLS)}",
    )
    parser.add_argument("--junit", default="", metavar="FILE", help="write JUnit XML there")
    parser.add_argument(
        "--markdown", default="", metavar="FILE", help="write a block for a pull request there"
    )


def analysis_options(namespace: argparse.Namespace) -> AnalysisOptions:
    """Checks what `add_analysis_options` parsed; ValueError names the wrong value."""
    if namespace.find_max and namespace.sweep:
        raise ValueError("--find-max searches its own loads: leave out --sweep")
    if namespace.find_max and namespace.slo:
        raise ValueError("--find-max has the objectives itself: leave out --slo")
    if namespace.gate and not namespace.baseline:
        raise ValueError("--gate needs a --baseline to compare with")
    if namespace.metrics_compat and namespace.metrics_compat not in TOOLS:
        raise ValueError(
            f"--metrics-compat {namespace.metrics_compat!r} is not one of {', '.join(TOOLS)}"
        )
    objectives = namespace.find_max or namespace.slo
    limits = namespace.gate or (USUAL_GATE if namespace.baseline else "")
    return AnalysisOptions(
        objectives=parse_objectives(objectives) if objectives else (),
        sweep=parse_sweep(namespace.sweep) if namespace.sweep else (),
        finds_max=bool(namespace.find_max),
        baseline=load_result(Path(namespace.baseline)) if namespace.baseline else None,
        limits=parse_gate(limits) if limits else (),
        compat=cast(Tool, namespace.metrics_compat) if namespace.metrics_compat else None,
        junit=Path(namespace.junit) if namespace.junit else None,
        markdown=Path(namespace.markdown) if namespace.markdown else None,
    )
