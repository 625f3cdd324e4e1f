"""From the runs of all levels to a result, its files and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from lorry_loadtest.analysis_options import AnalysisOptions
from lorry_loadtest.compare import compare
from lorry_loadtest.find_max import FoundMax
from lorry_loadtest.gate.gate import gate_exit_code
from lorry_loadtest.junit import junit_xml
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.markdown import markdown_block
from lorry_loadtest.result import RunResult
from lorry_loadtest.run_info import RunInfo
from lorry_loadtest.settle import settle
from lorry_loadtest.write_report import make_result, write_report


def conclude(
    runs: Sequence[LevelRun],
    *,
    info: RunInfo,
    analysis: AnalysisOptions,
    out: Path,
    found: FoundMax | None = None,
) -> RunResult:
    """Cuts each window where its run had settled, judges, compares, and writes everything.

    `out` exists. Raises NotComparable when the baseline is of another stream; all files but the
    gate's have been written then.
    """
    settled = [settle(run) for run in runs]
    result = make_result(
        settled, info=info, objectives=analysis.objectives, found=found, compat=analysis.compat
    )
    write_report(out, result, settled)
    if analysis.baseline is not None:
        gate = compare(analysis.baseline, result, analysis.limits)
        result = msgspec.structs.replace(result, gate=gate)
        write_report(out, result, settled)
    if analysis.junit is not None:
        analysis.junit.write_text(junit_xml(result), encoding="utf-8")
    if analysis.markdown is not None:
        analysis.markdown.write_text(markdown_block(result), encoding="utf-8")
    return result


def exit_code(result: RunResult) -> int:
    """3 when the figures cannot be used, 1 for a regression or a failed request, else 0.

    A gate that this run was too short to answer is 3 as well.
    """
    if result.verdict.exit_code:
        return result.verdict.exit_code
    code = gate_exit_code(result.gate)
    return code or (1 if result.num_failed else 0)
