"""`lorry loadtest`: measures a server at one load after the other and writes a report."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gevent.monkey import MonkeyPatchWarning

from lorry_loadtest.analysis_options import (
    AnalysisOptions,
    add_analysis_options,
    analysis_options,
)
from lorry_loadtest.ask_server import ask_server
from lorry_loadtest.calibrate_command import calibrate_main
from lorry_loadtest.calibration import calibration_line
from lorry_loadtest.catalog import Catalog, CatalogError, fetch_catalog
from lorry_loadtest.conclude import conclude, exit_code
from lorry_loadtest.console import ProgressLine, level_table, refused, verdict_lines
from lorry_loadtest.endpoint import Endpoint, parse_endpoint
from lorry_loadtest.find_max import START_PER_S, FoundMax, find_max
from lorry_loadtest.gate.pairing import NotComparable
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.load_points import LoadPoint
from lorry_loadtest.options import WorkloadOptions, add_workload_options, workload_options
from lorry_loadtest.replay_command import replay_main
from lorry_loadtest.result_commands import compare_main, explain_main
from lorry_loadtest.run_info import RunInfo, describe_run
from lorry_loadtest.scenarios import SCENARIOS

_MAX_STREAMS = 10_000
_DEFAULT_LEVELS = (1, 4, 16)
# A search begins with at least so many in a measured time, so that it has something to judge.
_FIRST_REQUESTS = 40


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every request succeeded, 1 when one failed or a limit of the gate broke, 2 when nothing
    could be run, 3 when the figures cannot be used."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    parser = load_parser()
    namespace = parser.parse_args(arguments)
    try:
        levels = _parse_levels(namespace.concurrency) if namespace.concurrency else ()
        endpoint = parse_endpoint(namespace.url)
        analysis = analysis_options(namespace)
        if levels and (analysis.sweep or analysis.finds_max):
            raise ValueError("--concurrency says the loads: leave out --sweep and --find-max")
        options = workload_options(namespace)
        if options.arrival and (levels or any(point.concurrency for point in analysis.sweep)):
            raise ValueError(
                "--arrival is an open loop, and numbers of streams are a closed one: leave out one"
            )
        if namespace.scenario and namespace.scenario not in SCENARIOS:
            raise ValueError(
                f"--scenario {namespace.scenario} is not one of {', '.join(SCENARIOS)}"
            )
        _check_times(namespace)
        out = _make_folder(namespace.out)
    except ValueError as exc:
        parser.error(str(exc))
    try:
        catalog = fetch_catalog(endpoint, api_key=options.api_key)
        _check_adapters(options, catalog)
        started_at = datetime.now(UTC)
        measured = _run(
            namespace,
            levels,
            endpoint,
            analysis=analysis,
            options=options,
            catalog=catalog,
            command=["lorry", "loadtest", *arguments],
            started_at=started_at,
        )
    except (CatalogError, ValueError) as exc:
        return refused("lorry loadtest", exc)
    if not measured.runs:
        print("lorry loadtest: interrupted before the first level was done", file=sys.stderr)
        return 130
    return _finish(measured, analysis=analysis, out=out) or (130 if measured.interrupted else 0)


def load_parser() -> argparse.ArgumentParser:
    """All options of a run."""
    parser = argparse.ArgumentParser(
        prog="lorry loadtest",
        description="Measures a server at several numbers of concurrent streams and writes "
        "report.html, report.json and records.jsonl.",
        epilog=f"Also: lorry loadtest {'|'.join(COMMANDS)} --help",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument(
        "--concurrency",
        default="",
        metavar="N,N,...",
        help="numbers of streams, one level each (default: 1,4,16 where nothing says when requests "
        "arrive)",
    )
    parser.add_argument(
        "--scenario",
        default="",
        metavar="NAME",
        help=f"a load that comes with it: {', '.join(SCENARIOS)}",
    )
    parser.add_argument(
        "--duration",
        type=float,
        default=20.0,
        metavar="S",
        help="measured seconds per level (default: %(default)s)",
    )
    parser.add_argument(
        "--warmup",
        type=float,
        default=3.0,
        metavar="S",
        help="seconds before them that do not count (default: %(default)s)",
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="S",
        help="at most so long for the last requests of a level (default: %(default)s)",
    )
    add_workload_options(parser)
    parser.add_argument("--api-key", default="", help="sent as a bearer token")
    parser.add_argument(
        "--no-calibration",
        action="store_true",
        help="do not measure this client's own error first",
    )
    add_analysis_options(parser)
    parser.add_argument(
        "--out", default="loadtest-report", metavar="DIR", help="default: %(default)s"
    )
    return parser


def _parse_levels(text: str) -> tuple[int, ...]:
    try:
        levels = tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise ValueError(f"--concurrency {text!r} is not a list such as 1,4,16") from exc
    for level in levels:
        if not 1 <= level <= _MAX_STREAMS:
            raise ValueError(f"--concurrency {level} is not between 1 and {_MAX_STREAMS}")
    if len(set(levels)) != len(levels):
        raise ValueError(f"--concurrency {text} names a level twice")
    return tuple(sorted(levels))


def _check_times(namespace: argparse.Namespace) -> None:
    if not 0 < namespace.duration <= 86_400:
        raise ValueError(f"--duration {namespace.duration} is not between 0 and 86400 seconds")
    for name in ("warmup", "drain"):
        if not 0 <= getattr(namespace, name) <= 3_600:
            raise ValueError(f"--{name} {getattr(namespace, name)} is not between 0 and 3600")


def _make_folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ValueError(f"--out {path}: {exc.strerror}") from exc
    return folder


def _check_adapters(options: WorkloadOptions, catalog: Catalog) -> None:
    for name in options.adapters or {}:
        if name not in catalog.adapters:
            known = ", ".join(catalog.adapters) or "none"
            raise CatalogError(f"the server does not list adapter {name!r}; it has: {known}")


def _run(
    namespace: argparse.Namespace,
    levels: tuple[int, ...],
    endpoint: Endpoint,
    *,
    options: WorkloadOptions,
    catalog: Catalog,
    analysis: AnalysisOptions,
    command: Sequence[str],
    started_at: datetime,
) -> _Measured:
    """The finished levels, and whether the user stopped the rest."""
    # Late, because it makes locust patch the standard library. The SDK may have imported ssl by
    # then, of which gevent warns; nothing here uses the SDK's connections, and ours are gevent's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MonkeyPatchWarning)
        from lorry_loadtest.scenario_classes import user_class_of
        from lorry_loadtest.sweep import LevelTimes, LocalMeasure, Progress

    points = analysis.sweep or tuple(
        LoadPoint(concurrency=level, index=index)
        for index, level in enumerate(levels or _DEFAULT_LEVELS)
    )
    line = ProgressLine(num_levels=0 if analysis.finds_max else len(points))

    def show(progress: Progress) -> None:
        state = progress.state  # an open loop has no number of streams but what is under way
        line.update(
            state.live,
            progress.phase,
            progress.elapsed_s,
            num_streams=state.level or state.in_flight,
        )

    measure = LocalMeasure(
        LevelTimes(
            warmup_s=namespace.warmup, duration_s=namespace.duration, drain_s=namespace.drain
        ),
        user_class=user_class_of(namespace.scenario),
        endpoint=endpoint,
        options=options,
        catalog=catalog,
        calibrates=not namespace.no_calibration,
        on_progress=show,
    )
    info = describe_run(
        command,
        wire=measure.wire,
        workload=measure.workload,
        warmup_s=namespace.warmup,
        duration_s=namespace.duration,
        started_at=started_at,
        server=ask_server(endpoint, api_key=options.api_key),
    )
    runs: list[LevelRun] = []

    def remember(point: LoadPoint) -> LevelRun:
        runs.append(measure(point))
        return runs[-1]

    found: FoundMax | None = None
    interrupted = False
    try:
        if analysis.finds_max:
            start_per_s = max(START_PER_S, _FIRST_REQUESTS / namespace.duration)
            found, _ = find_max(remember, analysis.objectives, start_per_s=start_per_s)
        elif measure.has_own_plan and not levels and not analysis.sweep:
            runs.append(measure.as_planned())
        else:
            for point in points:
                remember(point)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        line.clear()
    if analysis.finds_max:
        runs.sort(key=lambda run: run.rate_per_s or 0.0)  # a search jumps, a reader should not
    return _Measured(tuple(runs), info, found, interrupted)


@dataclass(frozen=True, slots=True)
class _Measured:
    runs: tuple[LevelRun, ...]
    info: RunInfo
    found: FoundMax | None
    interrupted: bool


def _finish(measured: _Measured, *, analysis: AnalysisOptions, out: Path) -> int:
    try:
        result = conclude(
            measured.runs, info=measured.info, analysis=analysis, out=out, found=measured.found
        )
    except NotComparable as exc:
        return refused("lorry loadtest", f"--baseline {exc}")
    observations = measured.runs[0].facts.observations
    if observations.calibration is not None:
        print(calibration_line(observations.calibration))
    for note in observations.notes:
        print(note)
    hashes = [run.facts.observations.stream_hash for run in measured.runs]
    print("\n".join(f"stream {digest}" for digest in hashes) + "\n")
    print(level_table(result.levels))
    print("\n" + "\n".join(verdict_lines(result)))
    print(f"Report: {out / 'report.html'}")
    return exit_code(result)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "compare": compare_main,
    "explain": explain_main,
    "replay": lambda argv: replay_main(argv, load_parser=load_parser),
    "calibrate": calibrate_main,
}
