"""Our options on locust's own command line, and a report at the end of each of its tests."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from locust import events

from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.options import WorkloadOptions, add_workload_options, workload_options
from lorry_loadtest.run_info import RunInfo, describe_run
from lorry_loadtest.run_state import RunState
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.write_report import write_report

logger = logging.getLogger(__name__)


def add_options() -> None:
    """To be called by a locustfile that uses `CommandLineUser`."""
    events.init_command_line_parser.add_listener(_add_to_parser)
    events.init.add_listener(_attach)


def _add_to_parser(parser: Any) -> None:
    add_workload_options(parser)
    parser.add_argument("--api-key", default="", is_secret=True, help="sent as a bearer token")
    parser.add_argument(
        "--llm-report",
        default="",
        metavar="DIR",
        help="folder for report.html, report.json and records.jsonl of each test",
    )


def _attach(environment: Any, **_: Any) -> None:  # locust adds arguments to its events
    options = environment.parsed_options
    is_distributed = options.master or options.worker or options.processes
    if options.llm_report and is_distributed:
        raise SystemExit("--llm-report needs all users in one process: leave out --processes")
    try:
        workload_options(options)
    except ValueError as exc:
        raise SystemExit(str(exc)) from exc
    _ReportedTests(environment)


class _ReportedTests:
    """Gives every test of an environment its own state, and writes its report when it has ended."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._started_at = datetime.now(UTC)
        self._window_start_ns: int | None = None
        self._window_end_ns = 0
        self._cpu_start_s = 0.0
        self._cpu_s = 0.0
        listeners = environment.events
        listeners.test_start.add_listener(self._on_start)
        listeners.spawning_complete.add_listener(self._on_spawned)
        listeners.test_stopping.add_listener(self._on_stopping)
        listeners.test_stop.add_listener(self._on_stop)

    @property
    def _state(self) -> RunState:
        state: RunState = self._environment.lorry_run
        return state

    def _on_start(self, **_: Any) -> None:
        # again, because the web form may have changed them since the start
        options = workload_options(self._environment.parsed_options)
        worker = getattr(self._environment.runner, "worker_index", 0)
        self._environment.lorry_run = RunState(worker=max(0, worker), options=options)
        self._started_at = datetime.now(UTC)
        self._window_start_ns = None

    def _on_spawned(self, **_: Any) -> None:
        self._window_start_ns = self._state.now_ns
        self._cpu_start_s = time.process_time()

    def _on_stopping(self, **_: Any) -> None:
        self._window_end_ns = self._state.now_ns
        self._cpu_s = time.process_time() - self._cpu_start_s

    def _on_stop(self, **_: Any) -> None:
        folder = self._environment.parsed_options.llm_report
        if not folder or self._window_start_ns is None or not self._state.records:
            return
        run = LevelRun(
            concurrency=len({record.user for record in self._state.records}),
            start_ns=0,
            window_start_ns=self._window_start_ns,
            window_end_ns=self._window_end_ns,
            drained_ns=self._state.now_ns,
            client_cpu_share=self._cpu_s
            * 1e9
            / max(1, self._window_end_ns - self._window_start_ns),
            records=tuple(self._state.records),
        )
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_report(path, [run], info=self._describe(run))
        logger.info("Report: %s", path / "report.html")

    def _describe(self, run: LevelRun) -> RunInfo:
        options: WorkloadOptions | None = self._state.options
        assert options is not None  # _on_start made the state with them
        endpoint = parse_endpoint(self._environment.host)
        return describe_run(
            ["locust", *sys.argv[1:]],
            endpoint=endpoint,
            options=options,
            catalog=self._state.catalog(endpoint, api_key=options.api_key),
            warmup_s=run.window_start_ns / 1e9,
            duration_s=run.window_s,
            started_at=self._started_at,
        )
