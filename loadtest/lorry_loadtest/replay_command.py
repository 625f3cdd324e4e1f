"""`lorry loadtest replay`: sends what a run sent once more, to another server or another version."""

from __future__ import annotations

import argparse
import shlex
import warnings
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from gevent.monkey import MonkeyPatchWarning

from lorry_loadtest.analysis_options import AnalysisOptions
from lorry_loadtest.ask_server import ask_server
from lorry_loadtest.catalog import CatalogError, fetch_catalog
from lorry_loadtest.compare import UnreadableResult
from lorry_loadtest.conclude import conclude, exit_code
from lorry_loadtest.console import level_table, refused, verdict_lines
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.options import workload_options
from lorry_loadtest.recorded_runs import RecordedRun, read_run
from lorry_loadtest.replay import NotReplayable, check_same_stream, recorded_arrivals
from lorry_loadtest.result import RunResult
from lorry_loadtest.run_info import describe_run
from lorry_loadtest.schedule import Schedule


def replay_main(argv: Sequence[str], *, load_parser: Callable[[], argparse.ArgumentParser]) -> int:
    """The codes of `lorry loadtest`. `load_parser` is that of the command that made the run."""
    namespace = _parser().parse_args(argv)
    try:
        run = read_run(Path(namespace.run))
        words = shlex.split(run.result.info.command)
        if words[:2] != ["lorry", "loadtest"]:
            raise NotReplayable(
                "the run was not made by `lorry loadtest`; its locustfile can do it"
            )
        load = load_parser().parse_args([*words[2:], "--url", namespace.url or run.result.info.url])
        result = _replay(run, load, namespace, command=["lorry", "loadtest", "replay", *argv])
    except (UnreadableResult, NotReplayable, CatalogError, ValueError) as exc:
        return refused("lorry loadtest replay", exc)
    print(level_table(result.levels))
    print("\n" + "\n".join(verdict_lines(result)))
    print(f"Report: {Path(namespace.out) / 'report.html'}")
    return exit_code(result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorry loadtest replay",
        description="Sends the requests of a recorded level again, at the times at which they were "
        "sent then, whether or not the answers come as fast.",
    )
    parser.add_argument("run", metavar="RECORDS", help="records.jsonl of the run, or its folder")
    parser.add_argument("--url", default="", help="another server than that of the run")
    parser.add_argument(
        "--level", type=int, default=0, metavar="N", help="which level, from 0 (default: 0)"
    )
    parser.add_argument("--api-key", default="", help="sent as a bearer token")
    parser.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="default: %(default)s"
    )
    parser.add_argument(
        "--out", default="loadtest-replay", metavar="DIR", help="default: %(default)s"
    )
    return parser


def _replay(
    run: RecordedRun,
    load: argparse.Namespace,
    namespace: argparse.Namespace,
    *,
    command: Sequence[str],
) -> RunResult:
    if not 0 <= namespace.level < len(run.levels):
        raise NotReplayable(f"--level {namespace.level}: the run has {len(run.levels)}, from 0")
    records, stream = run.levels[namespace.level], run.stream_of(namespace.level)
    arrivals = recorded_arrivals(records)
    options = replace(workload_options(load), arrival="", api_key=namespace.api_key or None)
    endpoint = parse_endpoint(load.url)
    catalog = fetch_catalog(endpoint, api_key=options.api_key)
    out = Path(namespace.out)
    out.mkdir(parents=True, exist_ok=True)
    # late, because it makes locust patch the standard library; see cli
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MonkeyPatchWarning)
        from lorry_loadtest.scenario_classes import user_class_of
        from lorry_loadtest.sweep import LevelTimes, LocalMeasure

    measure = LocalMeasure(
        LevelTimes(load.warmup, load.duration, namespace.drain),
        user_class=type("Replayed", (user_class_of(load.scenario),), {"arrival": arrivals}),
        endpoint=endpoint,
        options=options,
        catalog=catalog,
        calibrates=not load.no_calibration,
        on_progress=lambda progress: None,
    )
    workload = measure.settings.workload(catalog, stream=stream)
    check_same_stream(Schedule(workload, array("q", arrivals.times_ns)), records)
    info = describe_run(
        command,
        wire=measure.wire,
        workload=workload,
        warmup_s=load.warmup,
        duration_s=load.duration,
        started_at=datetime.now(UTC),
        server=ask_server(endpoint, api_key=options.api_key),
    )
    replayed = measure.as_planned(stream=stream)
    return conclude([replayed], info=info, analysis=AnalysisOptions(), out=out)
