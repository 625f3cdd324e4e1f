"""A report at the end of each of locust's tests, or a word on why there is none."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

import msgspec

from lorry_loadtest.analysis_options import AnalysisOptions
from lorry_loadtest.ask_server import ask_server
from lorry_loadtest.conclude import conclude, exit_code
from lorry_loadtest.console import verdict_lines
from lorry_loadtest.declared import declared_load, declared_together
from lorry_loadtest.engine import Engine, engine_of
from lorry_loadtest.gate.pairing import NotComparable
from lorry_loadtest.gathered import Gathered
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.run_events import llm_classes
from lorry_loadtest.run_facts import DeclaredLoad, LocustTable, RunFacts
from lorry_loadtest.run_info import RunInfo, describe_run, describe_together
from lorry_loadtest.slo import Objective, parse_objectives
from lorry_loadtest.sweep import locust_table

logger = logging.getLogger(__name__)


class ReportedTests:
    """Writes the report of every test of an environment when it has ended."""

    def __init__(self, environment: Any, analysis: AnalysisOptions) -> None:
        self._environment = environment
        self._analysis = analysis
        self._started_at: datetime | None = None  # of the test that runs
        self._window_start_ns: int | None = None
        self._window_end_ns = 0
        listeners = environment.events
        listeners.test_start.add_listener(self._on_start)
        listeners.spawning_complete.add_listener(self._on_spawned)
        listeners.test_stopping.add_listener(self._on_stopping)
        listeners.test_stop.add_listener(self._on_stop)

    def _on_start(self, **_: Any) -> None:
        self._started_at = datetime.now(UTC)
        self._window_start_ns = None

    def _on_spawned(self, **_: Any) -> None:
        self._window_start_ns = self._environment.lorry_run.now_ns

    def _on_stopping(self, **_: Any) -> None:
        if hasattr(self._environment, "lorry_run"):
            self._window_end_ns = self._environment.lorry_run.now_ns

    def _on_stop(self, **_: Any) -> None:
        started_at, self._started_at = self._started_at, None
        parsed = self._environment.parsed_options
        if not parsed.llm_report or started_at is None:
            return
        gathered: Gathered | None = self._environment.lorry_events.gathered
        if gathered is None:
            logger.error("no report: the test could not be prepared; what was wrong is said above")
        elif not gathered.sent:
            logger.error("no report: the test ended before a request was sent")
        else:
            name = "" if parsed.headless else f"{started_at:%Y-%m-%dT%H-%M-%S}"
            path = _free(Path(parsed.llm_report) / name) if name else Path(parsed.llm_report)
            path.mkdir(parents=True, exist_ok=True)
            self._write(path, gathered, started_at=started_at)
            logger.info("Report: %s", path / "report.html")

    def _write(self, path: Path, gathered: Gathered, *, started_at: datetime) -> None:
        state, parsed = self._environment.lorry_run, self._environment.parsed_options
        engines = [
            engine_of(user_class, self._environment, state)
            for user_class in llm_classes(self._environment)
        ]
        window_ns = self._window_of(gathered, is_open_loop=engines[0].is_open_loop)
        run = _level_run(
            gathered,
            engines,
            window_ns=window_ns,
            drained_ns=state.now_ns,
            locust=locust_table(self._environment),
        )
        analysis = self._analysis if parsed.headless else _beside(self._analysis, path.name)
        if not analysis.objectives:
            analysis = replace(analysis, objectives=_own_objectives(self._environment))
        info = _info(run, gathered, engines, started_at=started_at)
        try:
            result = conclude([run], info=info, analysis=analysis, out=path)
        except NotComparable as exc:
            logger.error("--baseline %s", exc)
            self._environment.process_exit_code = 2
            return
        for line in verdict_lines(result):
            logger.info("%s", line)
        # None leaves it to locust, which has failures of its own
        self._environment.process_exit_code = exit_code(result) or None

    def _window_of(self, gathered: Gathered, *, is_open_loop: bool) -> tuple[int, int]:
        start_ns, end_ns = max(0, self._window_start_ns or 0), self._window_end_ns
        if is_open_loop:
            start_ns = 0  # its plan does not wait for users
            # -t is a little longer than the plan: nothing arrives after it
            last_ns = max(record.t_sched_ns for record in gathered.sent)
            end_ns = min(end_ns, last_ns + 1)
        elif self._window_start_ns is None:
            gathered.notes.append(
                "the test was ended before all of its users had been started: their start is inside "
                "the window"
            )
        return start_ns, max(end_ns, start_ns + 1)


def _level_run(
    gathered: Gathered,
    engines: Sequence[Engine],
    *,
    window_ns: tuple[int, int],
    drained_ns: int,
    locust: LocustTable,
) -> LevelRun:
    """Of all user classes, which are all closed or all open loops; see check_judgeable."""
    observations = gathered.observations()
    loaded_s = window_ns[1] / 1e9
    due = observations.num_due
    declared = [declared_load(engine, until_s=loaded_s) for engine in engines]
    run = LevelRun(
        concurrency=gathered.max_in_flight
        if engines[0].is_open_loop
        else len({(record.worker, record.user) for record in gathered.sent}),
        rate_per_s=None if due is None else due / loaded_s,
        start_ns=0,
        window_start_ns=window_ns[0],
        window_end_ns=window_ns[1],
        drained_ns=drained_ns,
        client_cpu_share=gathered.client_cpu_share,
        records=tuple(gathered.records),
        facts=RunFacts(
            observations=observations,
            declared=declared[0] if len(declared) == 1 else declared_together(declared),
            locust=locust,
        ),
    )
    if len(engines) == 1:
        return run
    parts = (
        _part(run, gathered, engine.settings.scenario, own)
        for engine, own in zip(engines, declared, strict=True)
    )
    return replace(run, parts=tuple(parts))


def _info(
    run: LevelRun, gathered: Gathered, engines: Sequence[Engine], *, started_at: datetime
) -> RunInfo:
    wire = engines[0].wire
    server = ask_server(wire.endpoint, api_key=wire.api_key)
    infos = [
        describe_run(
            ["locust", *sys.argv[1:]],
            wire=engine.wire,
            workload=engine.workload,
            warmup_s=run.window_start_ns / 1e9,
            duration_s=run.window_s,
            started_at=started_at,
            server=server,
        )
        for engine in engines
    ]
    counts = [len(gathered.sent_by(engine.settings.scenario)) for engine in engines]
    return describe_together(infos, counts)


def _part(run: LevelRun, gathered: Gathered, scenario: str, declared: DeclaredLoad) -> LevelRun:
    """What of a run is one user class's."""
    observations = msgspec.structs.replace(
        run.facts.observations,
        stream_hash=gathered.prepared.stream_hashes[scenario],
        sent_hash=gathered.sent_hash_of(scenario),
    )
    return replace(
        run,
        name=scenario,
        rate_per_s=declared.rate_per_s,
        records=tuple(record for record in run.records if record.scenario == scenario),
        facts=RunFacts(observations=observations, declared=declared),
    )


def _own_objectives(environment: Any) -> tuple[Objective, ...]:
    """Those that the user classes say; see check_judgeable."""
    said = next((user_class.slo for user_class in llm_classes(environment) if user_class.slo), "")
    return parse_objectives(said) if said else ()


def _free(folder: Path) -> Path:
    """With a number behind its name where an earlier test of the same second has it."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(path for path in chain([folder], numbered) if not path.exists())


def _beside(analysis: AnalysisOptions, name: str) -> AnalysisOptions:
    """Files for a pull request, named by the test, so that none overwrites another's."""
    junit, markdown = (
        path and path.with_name(f"{path.stem}-{name}{path.suffix}")
        for path in (analysis.junit, analysis.markdown)
    )
    return replace(analysis, junit=junit, markdown=markdown)
