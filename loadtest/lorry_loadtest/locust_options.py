"""Our options on locust's own command line, and a report at the end of each of its tests."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

import msgspec
from locust import events
from locust.runners import WorkerRunner

from lorry_loadtest.analysis_options import AnalysisOptions, add_judging_options, analysis_options
from lorry_loadtest.ask_server import ask_server
from lorry_loadtest.catalog import CatalogError
from lorry_loadtest.conclude import conclude, exit_code
from lorry_loadtest.console import verdict_lines
from lorry_loadtest.declared import declared_load, declared_together
from lorry_loadtest.engine import engine_of
from lorry_loadtest.gate.pairing import NotComparable
from lorry_loadtest.gathered import Gathered
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.live_page import attach_live_page
from lorry_loadtest.options import add_workload_options, workload_options
from lorry_loadtest.run_events import attach_run, llm_classes
from lorry_loadtest.run_facts import DeclaredLoad, RunFacts
from lorry_loadtest.run_info import describe_run, describe_together
from lorry_loadtest.slo import Objective, parse_objectives
from lorry_loadtest.sweep import locust_table

logger = logging.getLogger(__name__)

_JUDGING = ("slo", "baseline", "gate", "metrics_compat", "junit", "markdown")
_SEVERAL_RUNS = ("sweep", "find_max")


def add_options() -> None:
    """To be called by a locustfile whose users are to follow the options, and that reports."""
    events.init_command_line_parser.add_listener(_add_to_parser)
    events.init.add_listener(_attach)


def _add_to_parser(parser: Any) -> None:
    known = {action.dest for action in parser._actions}
    if "llm_report" in known:
        return  # another locustfile of the same command has added them
    add_workload_options(parser)
    parser.add_argument("--api-key", default="", is_secret=True, help="sent as a bearer token")
    parser.add_argument(
        "--llm-report",
        default="",
        metavar="DIR",
        help="folder for report.html, report.json and records.jsonl; each test of the web page has a "
        "folder of its own in it, named by its start",
    )
    parser.add_argument(
        "--no-calibration",
        action="store_true",
        help="do not measure this client's own error before a reported test",
    )
    add_judging_options(parser)
    for name in _SEVERAL_RUNS:
        parser.add_argument(_option(name), default="", help=argparse.SUPPRESS)
    for action in parser._actions:
        if action.dest in (*_JUDGING, *_SEVERAL_RUNS):
            action.include_in_web_ui = False  # files of this machine are not a web page's to name


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def one_run_options(parsed: argparse.Namespace) -> AnalysisOptions:
    """What one test of locust's is judged by; ValueError names the wrong option or value."""
    for name in _SEVERAL_RUNS:
        if getattr(parsed, name):
            option = _option(name)
            raise ValueError(
                f"{option} makes one run after the other, and locust makes one: "
                f"use `lorry loadtest {option} {getattr(parsed, name)}`"
            )
    for name in _JUDGING:
        if getattr(parsed, name) and not parsed.llm_report:
            raise ValueError(f"{_option(name)} needs --llm-report DIR, whose report it is about")
    return analysis_options(parsed)


def _attach(environment: Any, **_: Any) -> None:  # locust adds arguments to its events
    is_worker = isinstance(environment.runner, WorkerRunner)
    try:
        workload_options(environment.parsed_options)
        analysis = AnalysisOptions() if is_worker else one_run_options(environment.parsed_options)
    except ValueError as exc:
        raise SystemExit(str(exc)) from exc
    attach_run(environment)  # first, so that what it gathers is there when the report is written
    attach_live_page(environment)
    parsed = environment.parsed_options
    if parsed.llm_report and (parsed.headless or parsed.autostart):
        try:
            environment.lorry_events.prepare_ahead()
        except (CatalogError, ValueError, OSError) as exc:
            raise SystemExit(str(exc)) from exc
    if getattr(environment, "lorry_reports", None) is None and not is_worker:
        environment.lorry_reports = _ReportedTests(environment, analysis)


class _ReportedTests:
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
        state = self._environment.lorry_run
        engines = [
            engine_of(user_class, self._environment, state)
            for user_class in llm_classes(self._environment)
        ]
        is_open_loop = engines[0].is_open_loop  # of all of them; see check_judgeable
        window_start_ns, window_end_ns = max(0, self._window_start_ns or 0), self._window_end_ns
        if is_open_loop:
            window_start_ns = 0  # its plan does not wait for users
            # -t is a little longer than the plan: nothing arrives after it
            last_ns = max(record.t_sched_ns for record in gathered.sent)
            window_end_ns = min(window_end_ns, last_ns + 1)
        elif self._window_start_ns is None:
            gathered.notes.append(
                "the test was ended before all of its users had been started: their start is inside "
                "the window"
            )
        window_end_ns = max(window_end_ns, window_start_ns + 1)
        observations = gathered.observations()
        loaded_s = window_end_ns / 1e9
        due = observations.num_due
        declared = [declared_load(engine, until_s=loaded_s) for engine in engines]
        run = LevelRun(
            concurrency=gathered.max_in_flight
            if is_open_loop
            else len({(record.worker, record.user) for record in gathered.sent}),
            rate_per_s=None if due is None else due / loaded_s,
            start_ns=0,
            window_start_ns=window_start_ns,
            window_end_ns=window_end_ns,
            drained_ns=state.now_ns,
            client_cpu_share=gathered.client_cpu_share,
            records=tuple(gathered.records),
            facts=RunFacts(
                observations=observations,
                declared=declared_together(declared),
                locust=locust_table(self._environment),
            ),
        )
        names = [engine.settings.scenario for engine in engines]
        wire = engines[0].wire
        server = ask_server(wire.endpoint, api_key=wire.api_key)
        infos = [
            describe_run(
                ["locust", *sys.argv[1:]],
                wire=engine.wire,
                workload=engine.workload,
                warmup_s=window_start_ns / 1e9,
                duration_s=run.window_s,
                started_at=started_at,
                server=server,
            )
            for engine in engines
        ]
        info = describe_together(infos, [len(gathered.sent_by(name)) for name in names])
        if len(engines) > 1:
            parts = [
                _part(run, gathered, name, load) for name, load in zip(names, declared, strict=True)
            ]
            run = replace(run, parts=tuple(parts))
        else:
            run = replace(run, facts=replace(run.facts, declared=declared[0]))
        analysis = self._analysis
        if not self._environment.parsed_options.headless:
            analysis = _beside(analysis, path.name)
        if not analysis.objectives:
            analysis = replace(analysis, objectives=_own_objectives(self._environment))
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
