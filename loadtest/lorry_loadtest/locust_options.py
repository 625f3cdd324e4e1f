"""Our options on locust's own command line, and what follows them when a test runs."""

from __future__ import annotations

import argparse
import signal
from typing import Any

import gevent
from locust import events
from locust.runners import WorkerRunner

from lorry_loadtest.analysis_options import AnalysisOptions, add_judging_options, analysis_options
from lorry_loadtest.catalog import CatalogError
from lorry_loadtest.live_page import attach_live_page
from lorry_loadtest.options import add_workload_options, workload_options
from lorry_loadtest.reported_tests import ReportedTests
from lorry_loadtest.run_events import attach_run

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
    gevent.signal_handler(signal.SIGINT, _interrupt)
    attach_run(environment)  # first, so that what it gathers is there when the report is written
    attach_live_page(environment)
    parsed = environment.parsed_options
    if parsed.llm_report and (parsed.headless or parsed.autostart):
        try:
            environment.lorry_events.prepare_ahead()
        except (CatalogError, ValueError, OSError) as exc:
            raise SystemExit(str(exc)) from exc
    if getattr(environment, "lorry_reports", None) is None and not is_worker:
        environment.lorry_reports = ReportedTests(environment, analysis)


def _interrupt() -> None:
    """Ctrl-C, raised where locust waits for the end of the test. Python raises it in whichever
    greenlet runs: in a user's it would cost the record of a request."""
    gevent.get_hub().handle_system_error(KeyboardInterrupt, KeyboardInterrupt())
