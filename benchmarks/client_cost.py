"""What the client costs beyond raw aiohttp, and what other clients cost on the same server.

    .venv/bin/python benchmarks/client_cost.py --peers-python DIR/bin/python --out client.json

DIR is a virtual environment with `pip install openai httpx-aiohttp lorax-client`. Without it the
sections show lorry and raw aiohttp only. Everything runs in turn against a server with replies made
beforehand; CPU is that of the client's process. `--quick` tries everything with figures that mean
nothing.

- `request`: CPU per call, not streamed.
- `event`: CPU per event of a stream, from long streams less short ones: `burst` as fast as the
  socket gives them, `paced` one event per read.
- `flat`: calls per second from few tasks to many, beside raw aiohttp, with all but 64 of them
  waiting for their turn, and with Python's cyclic garbage collector called less often.
- `gather`: thousands of calls under one gather, nothing warm: errors that the client made.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from client_sections.closed_loop import Sample, raise_file_limit
from client_sections.contestants import over, raw_aiohttp, with_calm_collector
from client_sections.peers import NAMES, Peer, PeerMissingError, peer
from client_sections.roofline import roofline
from client_sections.rounds import Measure, Samples, here, in_turn
from cpu_sections.comma_lists import add_only, counts
from cpu_sections.report import Report, Row, median_ratio
from cpu_sections.run_sections import new_report, run_sections

SECTIONS = ("request", "event", "flat", "gather")
LORRY, RAW = "lorry", "raw aiohttp"
LIMITED, CALM = "lorry, limit=64", "lorry, collector called less often"
SHORT_STREAM = 2


def main() -> int:
    """Run the chosen sections."""
    options = parse_arguments()
    report = new_report(options.out)
    report.progress(f"{raise_file_limit()} file descriptors")
    with peers(options.peers_python, report) as others:

        def run(section: str) -> None:
            SECTION_RUNS[section](options, report, others)

        return run_sections(report, options.only, run)


@contextmanager
def peers(python: str | None, report: Report) -> Iterator[list[Peer]]:
    """The clients that the other environment has; those that are missing are named."""
    started: list[Peer] = []
    with ExitStack() as stack:
        if python is None:
            report.progress("no other clients: --peers-python is not given")
        for name in NAMES if python is not None else ():
            try:
                started.append(stack.enter_context(peer(name, str(python))))
            except PeerMissingError as error:
                report.progress(f"without {name}: {error}")
        report.keep("peers", {other.name: other.versions for other in started})
        yield started


def contestants(
    url: str, options: argparse.Namespace, others: list[Peer], *, with_raw: bool = True
) -> dict[str, Measure]:
    named = {LORRY: here(over(None), url, limit_s=options.limit_s)}
    if with_raw:
        named[RAW] = here(raw_aiohttp, url, limit_s=options.limit_s)
    for other in others:
        named[other.name] = _measure_of(other, url, options.limit_s)
    return named


def _measure_of(other: Peer, url: str, limit_s: float) -> Measure:
    def measure(kind: str, **work: Any) -> Sample | None:
        return other.measure(kind, url, limit_s=limit_s, **work)

    return measure


def request(options: argparse.Namespace, report: Report, others: list[Peer]) -> None:
    with roofline() as url:
        samples = in_turn(
            contestants(url, options, others),
            options.rounds,
            "closed_loop",
            concurrency=64,
            num_requests=options.requests,
            stream=False,
            num_tokens=16,
        )
    beyond = _beyond(samples[LORRY], samples[RAW])
    report.add(
        Row("request", "CPU beyond raw aiohttp", None, f"{beyond:.1f} us", wanted="<= 60 us"),
        *_beside(samples, "request", "CPU per call"),
    )
    report.keep("request", {name: own.raw() for name, own in samples.items()})


def event(options: argparse.Namespace, report: Report, others: list[Peer]) -> None:
    for pace, gap_ms in (("burst", 0.0), ("paced", options.gap_ms)):
        per_event: dict[str, list[float]] = {}
        raw: dict[str, Any] = {}
        with roofline(gap_ms=gap_ms) as url:
            named = contestants(url, options, others)
            work = {"concurrency": 16, "num_requests": options.streams, "stream": True}
            short = in_turn(named, options.rounds, "closed_loop", num_tokens=SHORT_STREAM, **work)
            long = in_turn(named, options.rounds, "closed_loop", num_tokens=options.tokens, **work)
        for name in named:
            raw[name] = {"short": short[name].raw(), "long": long[name].raw()}
            per_event[name] = [
                (b.cpu_us_per_request - a.cpu_us_per_request) / (options.tokens - SHORT_STREAM)
                for a, b in zip(short[name].rounds, long[name].rounds, strict=False)
            ]
        report.add(*_event_rows(pace, per_event))
        report.keep(f"event-{pace}", raw)
        report.progress(f"event, {pace}: done")


def _event_rows(pace: str, per_event: dict[str, list[float]]) -> list[Row]:
    shown = {
        name: f"{statistics.median(values):.2f} us" if values else "not done"
        for name, values in per_event.items()
    }
    beyond = statistics.median(a - b for a, b in zip(per_event[LORRY], per_event[RAW], strict=True))
    made = [
        Row("event", f"{pace}, CPU beyond raw aiohttp", None, f"{beyond:.2f} us", wanted="<= 5 us")
    ]
    for name in per_event:
        if name != LORRY:
            both = list(zip(per_event[LORRY], per_event[name], strict=False))
            ratio = statistics.median(a / b for a, b in both) if both else None
            what = f"{pace}, CPU per event, to {name}"
            made.append(Row("event", what, ratio, shown[LORRY], shown[name]))
    return made


def flat(options: argparse.Namespace, report: Report, others: list[Peer]) -> None:
    levels: dict[int, dict[str, Samples]] = {}
    with roofline() as url:
        named = contestants(url, options, [])
        named[LIMITED] = here(over(None, limit=64), url, limit_s=options.limit_s)
        named[CALM] = here(with_calm_collector(over(None)), url, limit_s=options.limit_s)
        for level in options.levels:
            levels[level] = in_turn(
                named,
                options.rounds,
                "closed_loop",
                concurrency=level,
                num_requests=max(options.requests, 2 * level),
                stream=False,
                num_tokens=16,
            )
            for name, own in levels[level].items():
                report.progress(f"flat, {level} tasks, {name}: {own.shown()}")
    fewest = options.levels[0]
    for name in named:
        for level, samples in levels.items():
            ratio = samples[name].requests_per_s / levels[fewest][name].requests_per_s
            what = f"{name}: calls/s of {level} tasks to those of {fewest}"
            wanted = "0.9 to 1.1" if name in (LORRY, LIMITED, CALM) else ""
            report.add(Row("flat", what, ratio, samples[name].shown(), wanted=wanted))
    report.keep(
        "flat",
        {
            str(level): {name: own.raw() for name, own in samples.items()}
            for level, samples in levels.items()
        },
    )


def gather(options: argparse.Namespace, report: Report, others: list[Peer]) -> None:
    with roofline() as url:
        samples = in_turn(
            contestants(url, options, others, with_raw=False),
            1,
            "gathered",
            num_requests=options.gathered,
            num_tokens=16,
        )
    for name, own in samples.items():
        num_errors = sum(own.errors.values())
        report.add(
            Row(
                "gather",
                f"{options.gathered} calls by {name}: errors",
                None,
                f"{num_errors}: {own.shown()}" if own.rounds else own.shown(),
                wanted="0" if name == LORRY else "",
            )
        )
    report.keep("gather", {name: own.raw() for name, own in samples.items()})


def _beyond(ours: Samples, floor: Samples) -> float:
    pairs = zip(ours.rounds, floor.rounds, strict=True)
    return statistics.median(a.cpu_us_per_request - b.cpu_us_per_request for a, b in pairs)


def _beside(samples: dict[str, Samples], section: str, what: str) -> list[Row]:
    ours = samples[LORRY]
    made = []
    for name, own in samples.items():
        if name == LORRY:
            continue
        ratio = None
        if len(own.rounds) == len(ours.rounds):
            ratio = median_ratio(
                [sample.cpu_us_per_request for sample in ours.rounds],
                [sample.cpu_us_per_request for sample in own.rounds],
            )
        made.append(Row(section, f"{what}, to {name}", ratio, ours.shown(), own.shown()))
    return made


SECTION_RUNS = {"request": request, "event": event, "flat": flat, "gather": gather}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="what the client costs")
    add = parser.add_argument
    add_only(parser, SECTIONS)
    add("--peers-python", metavar="PATH", help="an interpreter that has the other clients")
    add("--requests", type=int, default=8000, help="of each measurement of whole answers")
    add("--streams", type=int, default=160, help="of each measurement of streams")
    add("--tokens", type=int, default=128, help="events of a long stream")
    add("--gap-ms", type=float, default=5.0, help="between two events of a paced stream")
    add("--levels", type=counts, default=[64, 256, 1024, 4096], help="tasks of `flat`")
    add("--gathered", type=int, default=10_000, help="calls of `gather`")
    add("--rounds", type=int, default=5)
    add("--limit-s", type=float, default=120.0, help="a measurement that takes longer is given up")
    add("--quick", action="store_true", help="least work in every section, to see that it runs")
    add("--out", type=Path, metavar="FILE", help="JSON with the rows and the raw figures")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.streams, options.tokens = 128, 16, 16
        options.levels, options.gathered, options.rounds = [16, 64], 200, 1
    return options


if __name__ == "__main__":
    sys.exit(main())
