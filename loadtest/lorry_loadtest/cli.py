"""`lorry loadtest`: sweeps the number of streams and writes a report."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gevent.monkey import MonkeyPatchWarning

from lorry_loadtest.calibration import calibration_line
from lorry_loadtest.catalog import Catalog, CatalogError, fetch_catalog
from lorry_loadtest.console import ProgressLine, level_table
from lorry_loadtest.endpoint import Endpoint, parse_endpoint
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.load_points import LoadPoint
from lorry_loadtest.options import WorkloadOptions, add_workload_options, workload_options
from lorry_loadtest.run_info import RunInfo, describe_run
from lorry_loadtest.scenarios import SCENARIOS
from lorry_loadtest.slo import Objective, parse_objectives
from lorry_loadtest.write_report import make_result, write_report

_MAX_STREAMS = 10_000
_DEFAULT_LEVELS = (1, 4, 16)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every request succeeded, 1 when one failed, 2 when nothing could be run."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    namespace = parser.parse_args(arguments)
    try:
        levels = _parse_levels(namespace.concurrency) if namespace.concurrency else ()
        endpoint = parse_endpoint(namespace.url)
        objectives = parse_objectives(namespace.slo) if namespace.slo else ()
        options = workload_options(namespace)
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
        runs, info, interrupted = _run(
            namespace,
            levels,
            endpoint,
            options=options,
            catalog=catalog,
            command=["lorry", "loadtest", *arguments],
            started_at=started_at,
        )
    except (CatalogError, ValueError) as exc:
        print(f"lorry loadtest: {exc}", file=sys.stderr)
        return 2
    if not runs:
        print("lorry loadtest: interrupted before the first level was done", file=sys.stderr)
        return 130
    return _finish(runs, info=info, objectives=objectives, out=out) or (130 if interrupted else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorry loadtest",
        description="Measures a server at several numbers of concurrent streams and writes "
        "report.html, report.json and records.jsonl.",
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
    parser.add_argument(
        "--slo",
        default="",
        metavar="LIST",
        help="objectives such as ttft_p95<500ms,tpot_p95<60ms; the report tells what meets them",
    )
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
    command: Sequence[str],
    started_at: datetime,
) -> tuple[list[LevelRun], RunInfo, bool]:
    """The finished levels, and whether the user stopped the rest."""
    # Late, because it makes locust patch the standard library. The SDK may have imported ssl by
    # then, of which gevent warns; nothing here uses the SDK's connections, and ours are gevent's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MonkeyPatchWarning)
        from lorry_loadtest.scenario_classes import user_class_of
        from lorry_loadtest.sweep import LevelTimes, LocalMeasure, Progress

    line = ProgressLine(num_levels=max(1, len(levels) or len(_DEFAULT_LEVELS)))

    def show(progress: Progress) -> None:
        line.update(progress.level, progress.phase, progress.elapsed_s, progress.state.records)

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
    )
    runs: list[LevelRun] = []
    try:
        if measure.has_own_plan and not levels:
            runs.append(measure.as_planned())
        for index, level in enumerate(levels or (() if runs else _DEFAULT_LEVELS)):
            runs.append(measure(LoadPoint(concurrency=level, index=index)))
    except KeyboardInterrupt:
        return runs, info, True
    finally:
        line.clear()
    return runs, info, False


def _finish(
    runs: Sequence[LevelRun], *, info: RunInfo, objectives: tuple[Objective, ...], out: Path
) -> int:
    result = make_result(runs, info=info, objectives=objectives)
    write_report(out, result, runs)
    observations = runs[0].facts.observations
    if observations.calibration is not None:
        print(calibration_line(observations.calibration))
    for note in observations.notes:
        print(note)
    print("\n".join(f"stream {run.facts.observations.stream_hash}" for run in runs) + "\n")
    print(level_table(result.levels))
    print("\n" + "\n".join([result.headline, *result.remarks]))
    print(f"Report: {out / 'report.html'}")
    return 1 if result.num_failed else 0
