"""`lorry loadtest compare` and `explain`: what can be asked of runs that are over."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lorry_loadtest.compare import UnreadableResult, compare, load_result
from lorry_loadtest.console import refused
from lorry_loadtest.explain import UnknownRequest, explain
from lorry_loadtest.gate.gate import gate_exit_code
from lorry_loadtest.gate.limit import parse_gate
from lorry_loadtest.gate.lines import gate_table
from lorry_loadtest.gate.pairing import NotComparable
from lorry_loadtest.recorded_runs import RecordedRun, read_run


def compare_main(argv: Sequence[str]) -> int:
    """0 when B keeps every limit, 1 for a regression, 3 when the runs cannot tell, 2 for wrong use."""
    parser = argparse.ArgumentParser(
        prog="lorry loadtest compare",
        description="Compares two runs of the same stream, request by request.",
    )
    parser.add_argument("a", metavar="A", help="report.json, or its folder, of the baseline")
    parser.add_argument("b", metavar="B", help="the same of the candidate")
    parser.add_argument(
        "--gate",
        default="",
        metavar="LIST",
        help="how much worse is allowed, such as tpot_p95:+5%%,goodput:-3%%",
    )
    namespace = parser.parse_args(argv)
    try:
        limits = parse_gate(namespace.gate) if namespace.gate else None
        a, b = load_result(Path(namespace.a)), load_result(Path(namespace.b))
        results = compare(a, b, limits)
    except (UnreadableResult, NotComparable, ValueError) as exc:
        return refused("lorry loadtest compare", exc)
    print(gate_table(results))
    for name, result in (("A", a), ("B", b)):
        if result.verdict.word != "VALID":
            print(f"{name} is {result.verdict.word}: see its report")
    if "INVALID" in (a.verdict.word, b.verdict.word):
        return 3
    return gate_exit_code(results)


def explain_main(argv: Sequence[str]) -> int:
    """0, or 2 when there is no such request or no such run."""
    parser = argparse.ArgumentParser(
        prog="lorry loadtest explain",
        description="Tells where one request's time went, and which steps stalled it.",
    )
    parser.add_argument("request", metavar="REQUEST", help="the server's id of it, or its index")
    parser.add_argument(
        "--run",
        default="loadtest-report",
        metavar="DIR",
        help="folder of the run (default: %(default)s)",
    )
    namespace = parser.parse_args(argv)
    try:
        run = read_run(Path(namespace.run))
        print(_explained(namespace.request, run))
    except (UnreadableResult, UnknownRequest) as exc:
        return refused("lorry loadtest explain", exc)
    return 0


def _explained(request: str, run: RecordedRun) -> str:
    """From the level that has it; an index is in each, and the first level's is meant."""
    for level, records in enumerate(run.levels):
        if any(request in (record.request_id, str(record.index)) for record in records):
            return explain(request, records, run.steps(level))
    return explain(request, [record for records in run.levels for record in records], ())
