"""Writes what a run leaves behind: report.html, report.json and records.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorry_loadtest.headline import headline, remarks
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.records import write_records
from lorry_loadtest.report.page import render_page
from lorry_loadtest.result import RunResult, write_result
from lorry_loadtest.run_info import RunInfo
from lorry_loadtest.slo import Objective
from lorry_loadtest.summary import summarize


def write_report(
    folder: Path,
    runs: Sequence[LevelRun],
    *,
    info: RunInfo,
    objectives: Sequence[Objective] = (),
) -> RunResult:
    """`runs` has at least one level; the folder exists."""
    levels = tuple(summarize(run, objectives=objectives) for run in runs)
    result = RunResult(headline=headline(levels), remarks=remarks(levels), info=info, levels=levels)
    write_records(folder / "records.jsonl", (record for run in runs for record in run.records))
    write_result(folder / "report.json", result)
    (folder / "report.html").write_text(render_page(result, runs), encoding="utf-8")
    return result
