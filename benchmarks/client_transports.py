"""Which HTTP library the client should stand on: the same calls over each, as one table.

    .venv/bin/python benchmarks/client_transports.py --out transports.json

One core of ours (SSE, JSON, timings) over aiohttp, httpx2 and httpx, and the package `openai` over
our aiohttp, against a server with replies made beforehand, in turn. A ratio is CPU time per request
of this process to that over aiohttp, the default, in the same round: above 1 is dearer. `--quick`
tries everything with figures that mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from client_sections.closed_loop import raise_file_limit
from client_sections.contestants import Opening, openai_over_lorry, over
from client_sections.roofline import roofline
from client_sections.rounds import Samples, here, in_turn
from cpu_sections.comma_lists import add_only, counts
from cpu_sections.report import Report, Row, median_ratio
from cpu_sections.run_sections import new_report, run_sections

DEFAULT = "aiohttp"
SECTIONS = ("whole", "streamed")


def main() -> int:
    """Run the chosen sections."""
    options = parse_arguments()
    report = new_report(options.out)
    report.progress(f"{raise_file_limit()} file descriptors")
    return run_sections(report, options.only, lambda section: run(section, options, report))


def run(section: str, options: argparse.Namespace, report: Report) -> None:
    """All transports at each number of calls in flight."""
    stream = section == "streamed"
    with roofline() as url:
        contestants = {
            name: here(opening, url, limit_s=options.limit_s)
            for name, opening in transports().items()
        }
        for level in options.levels:
            num_requests = max(level, options.streams if stream else options.requests)
            samples = in_turn(
                contestants,
                options.rounds,
                "closed_loop",
                concurrency=level,
                num_requests=num_requests,
                stream=stream,
                num_tokens=options.tokens,
            )
            report.progress(f"{section}, {level} in flight: done")
            report.add(*rows(section, level, samples, options.tokens if stream else None))
            report.keep(f"{section}-{level}", {name: s.raw() for name, s in samples.items()})
            # what is too slow here will not do better with more in flight
            contestants = {n: m for n, m in contestants.items() if not samples[n].is_too_slow}


def transports() -> dict[str, Opening]:
    """Those whose libraries are installed; the default first."""
    found: dict[str, Opening] = {DEFAULT: over(None)}
    for name in ("httpx2", "httpx"):
        if importlib.util.find_spec(name) is not None:
            found[name] = over(name)
    if importlib.util.find_spec("openai") is not None:
        found["openai over aiohttp"] = openai_over_lorry
    return found


def rows(
    section: str, level: int, samples: dict[str, Samples], num_tokens: int | None
) -> list[Row]:
    made = []
    default = samples[DEFAULT]
    for name, own in samples.items():
        ratio = None
        if own.rounds and len(own.rounds) == len(default.rounds):
            ratio = median_ratio(
                [sample.cpu_us_per_request for sample in own.rounds],
                [sample.cpu_us_per_request for sample in default.rounds],
            )
        shown = own.shown()
        if num_tokens is not None and own.rounds:
            shown += f", {own.cpu_us_per_request / num_tokens:.1f} us/event"
        made.append(Row(f"{section}, {level} in flight", name, ratio, shown))
    return made


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the client over each HTTP library")
    add = parser.add_argument
    add_only(parser, SECTIONS)
    add("--levels", type=counts, default=[1, 16, 128, 512, 4000], help="calls in flight")
    add("--requests", type=int, default=4000, help="of each measurement that is not streamed")
    add("--streams", type=int, default=400, help="of each measurement that is streamed")
    add("--tokens", type=int, default=64, help="events of a stream")
    add("--rounds", type=int, default=3)
    add("--limit-s", type=float, default=60.0, help="a measurement that takes longer is given up")
    add("--quick", action="store_true", help="least work in every section, to see that it runs")
    add("--out", type=Path, metavar="FILE", help="JSON with the rows and the raw figures")
    options = parser.parse_args()
    if options.quick:
        options.levels = [1, 16, 64]
        options.requests, options.streams, options.rounds = 64, 16, 1
    return options


if __name__ == "__main__":
    sys.exit(main())
