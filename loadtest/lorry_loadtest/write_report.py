"""Makes the result of a run and writes what it leaves behind: a page, JSON and every record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorry_loadtest import metrics
from lorry_loadtest.find_max import FoundMax
from lorry_loadtest.headline import headline, remarks
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.metrics_compat import Tool, compat_table
from lorry_loadtest.observations import write_observations
from lorry_loadtest.records import write_records
from lorry_loadtest.report.page import render_page
from lorry_loadtest.report.tiles import answering_level
from lorry_loadtest.request_figures import request_figures
from lorry_loadtest.result import RunResult, write_result
from lorry_loadtest.run_info import RunInfo
from lorry_loadtest.slo import Objective
from lorry_loadtest.stalls import find_stalls
from lorry_loadtest.summary import summarize
from lorry_loadtest.validity.verdict import judge
from lorry_loadtest.waterfall import share_that_closes, waterfalls, with_ticks

NUM_SLOWEST = 20
NUM_STALLS = 20


def make_result(
    runs: Sequence[LevelRun],
    *,
    info: RunInfo,
    objectives: Sequence[Objective] = (),
    found: FoundMax | None = None,
    compat: Tool | None = None,
) -> RunResult:
    """All figures, checks and words. `runs` has at least one level."""
    levels = tuple(summarize(run, objectives=objectives) for run in runs)
    answering = runs[levels.index(answering_level(levels))]
    falls = waterfalls([record for run in runs for record in run.cohort])
    slowest = sorted(
        (record for record in answering.cohort if record.outcome == "ok"),
        key=lambda record: -(metrics.e2e_ms(record) or 0.0),
    )[:NUM_SLOWEST]
    places = {(record.index, record.t_sched_ns): record for record in slowest}
    shown = [
        with_ticks(fall, record)
        for fall in falls
        if (record := places.get((fall.index, fall.start_ns))) is not None
    ]
    stalls = [stall for run in runs for stall in find_stalls(run.records, run.steps)]
    stalls.sort(key=lambda stall: -stall.gap_ms)
    return RunResult(
        headline=headline(levels, found),
        remarks=remarks(levels),
        info=info,
        verdict=judge(runs, levels),
        levels=levels,
        requests=tuple(request_figures(run.cohort) for run in runs),
        stream_hash=answering.facts.observations.stream_hash,
        found=found,
        compat=compat and compat_table(compat, answering.measured, start_ns=answering.start_ns),
        slowest=tuple(sorted(shown, key=lambda fall: -fall.e2e_ms)),
        waterfalls_closed=share_that_closes(falls),
        stalls=tuple(stalls[:NUM_STALLS]),
        num_stalls=len(stalls),
    )


def write_report(folder: Path, result: RunResult, runs: Sequence[LevelRun]) -> None:
    """report.html, report.json, records.jsonl and, per level, what was observed beside them."""
    write_records(folder / "records.jsonl", (record for run in runs for record in run.records))
    for number, run in enumerate(runs):
        write_observations(folder / observations_name(number), run.facts.observations)
    write_result(folder / "report.json", result)
    (folder / "report.html").write_text(render_page(result, runs), encoding="utf-8")


def observations_name(level: int) -> str:
    """The file of the level-th level's observations, beside the records."""
    return f"observations-{level}.json"
