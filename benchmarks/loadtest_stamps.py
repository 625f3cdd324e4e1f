"""How wrong the load test's own stamps are, and what an event costs its client, beside other tools.

A mock server in a process of its own notes when it writes each event; what a client's stamps say
beyond that is the client's error. In turn, each with a fresh server: our client, our client with its
loop blocked for 50 ms at a time, locust's FastHttpUser, and in Pythons that have them the clients of
`vllm bench serve` and of guidellm. Then our client's p99 from the schedule against a server that
stops for two seconds:

    python benchmarks/loadtest_stamps.py --vllm-python PATH --guidellm-python PATH --out stamps.json

Errors are p50 and p99 in milliseconds, by request id. `--quick` tries everything in half a minute,
with figures that mean nothing.
"""

from __future__ import annotations

import locust  # noqa: F401  # first, because it patches the standard library

import argparse  # isort: skip
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from cpu_sections.report import machine
from loadtest_sections.clients import fast_http_user, own_client, own_client_blocked
from loadtest_sections.load import FIRST_MS, PAUSED_EVERY, Load
from loadtest_sections.peer import PeerError, peer
from loadtest_sections.row import Figures, Row, table
from loadtest_sections.stalled_server import stalled_server

from lorry_loadtest.http_get import GetFailed
from lorry_loadtest.mock_stream import MockTimes

Measure = Callable[[str, Load], Figures]

_EVENLY_SPREAD = "keeps first and last token, spreads the rest evenly"


def main() -> None:
    options = parse_arguments()
    conditions = machine() | {"arguments": sys.argv[1:]}
    loads = [Load(rate, options.seconds, options.gap_ms) for rate in options.events_per_s]
    rows: dict[Load, list[Row]] = {load: [] for load in loads}
    for name, measure, note in (
        ("lorry", own_client, ""),
        ("lorry, loop blocked", own_client_blocked, "a greenlet computes for 50 ms in every 200"),
        ("locust FastHttpUser", fast_http_user, "`iter_lines` reads 1,024 bytes at a time"),
    ):
        for load in loads:
            rows[load].append(measured(name, measure, load, note))
    for name, script, python, note in (
        ("vllm bench serve", "vllm_client.py", options.vllm_python, ""),
        ("guidellm", "guidellm_client.py", options.guidellm_python, _EVENLY_SPREAD),
    ):
        measure_peer(name, script, python, note, rows)
    stall = stalled_server(seconds=6 if options.quick else 20, stall_s=0.5 if options.quick else 2)
    for load in loads:
        print(f"\n{described(load)}\n\n{table(rows[load])}")
    print(f"\n{stall}")
    if options.out is not None:
        document = {
            "conditions": conditions,
            "loads": [
                {**asdict(load), "clients": [asdict(row) for row in rows[load]]} for load in loads
            ],
            "stall": asdict(stall),
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def measured(name: str, measure: Measure, load: Load, note: str) -> Row:
    """One client at one load, after a single stream: the first one of all still loads modules."""
    print(f"{name}: {load.events_per_s:,.0f} events/s", file=sys.stderr, flush=True)
    try:
        for one in (replace(load, seconds=0.0), load):
            with one.served() as url:
                found = measure(url, one)
    except (GetFailed, OSError, RuntimeError, ValueError) as exc:
        return Row(name, None, str(exc))
    return Row(name, found, note)


def measure_peer(
    name: str, script: str, python: str | None, note: str, rows: dict[Load, list[Row]]
) -> None:
    """Adds a row to each load's, also when the client is not there."""
    with ExitStack() as stack:
        try:
            if python is None:
                raise PeerError(f"give --{script.partition('_')[0]}-python")
            client = stack.enter_context(peer(script, python))
        except (PeerError, OSError) as exc:
            for gathered in rows.values():
                gathered.append(Row(name, None, str(exc)))
            return
        for load, gathered in rows.items():
            gathered.append(measured(f"{name} {client.version}", client.figures, load, note))


def described(load: Load) -> str:
    return (
        f"{load.events_per_s:,.0f} events/s for {load.seconds:g} s: streams of {load.num_tokens} "
        f"tokens, the first after {FIRST_MS:g} ms and one each {load.gap_ms:g} ms, evenly begun; "
        f"one stream in {PAUSED_EVERY} pauses half way for {MockTimes().stall_ms:g} ms. "
        "Errors in ms."
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--events-per-s", type=float, nargs="+", default=[5000.0, 1000.0], metavar="RATE")
    add("--seconds", type=float, default=10.0, help="of each measurement")
    add("--gap-ms", type=float, default=20.0, help="between two tokens of a stream")
    add("--vllm-python", metavar="PATH", help="a Python with vllm")
    add("--guidellm-python", metavar="PATH", help="a Python with guidellm")
    add("--quick", action="store_true", help="least work of every client, to see that it runs")
    add("--out", type=Path, metavar="FILE", help="JSON with the rows")
    options = parser.parse_args()
    if options.quick:
        options.events_per_s, options.seconds = [500.0], 1.0
    return options


if __name__ == "__main__":
    main()
