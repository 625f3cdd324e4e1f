"""How wrong the load test's own stamps are, and what an event costs its client.

A mock server in a process of its own notes when it writes each event; what a client's stamps say
beyond that is the client's error. Our client is measured as it is, with its loop blocked for 50 ms at
a time, and against a server that stops as by a signal; beside it locust's FastHttpUser, and, in a
Python that has it, the client of vllm bench serve:

    python benchmarks/loadtest_stamps.py --events-per-s 5000 --seconds 20
    python benchmarks/loadtest_stamps.py --vllm-python PATH

Prints one line per client, and JSON with --json. Errors are p50 and p99 in milliseconds.
"""

from __future__ import annotations

import locust  # noqa: F401  # first, because it patches the standard library

import argparse  # isort: skip
import json
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import msgspec

from lorry_loadtest.calibration import (
    ServedTimes,
    calibrate_against,
    compare_stamps,
    mock_process,
    send_schedule,
)
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.http_get import http_get
from lorry_loadtest.statistics.quantiles import quantile

_FIRST_MS = 50.0
_BLOCK_S = 0.05
_BLOCK_EVERY_S = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events-per-s", type=float, default=5000.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--gap-ms", type=float, default=20.0, help="between two tokens of a stream")
    parser.add_argument("--vllm-python", default="", metavar="PATH", help="a Python with vllm")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args()
    load = Load(options.events_per_s, options.seconds, options.gap_ms)
    rows = [
        measured("lorry", load, native),
        measured("lorry, loop blocked 50 ms at a time", load, blocked(native)),
        measured("locust FastHttpUser", load, fast_http),
    ]
    if options.vllm_python:
        rows.append(measured("vllm bench serve", load, foreign("vllm", options.vllm_python)))
    stall = stalled_server()
    print(stall["line"])
    if options.json:
        Path(options.json).write_text(json.dumps({"clients": rows, "stall": stall}, indent=2))


class Load:
    """Streams that begin evenly spread and bring so many events per second together."""

    def __init__(self, events_per_s: float, seconds: float, gap_ms: float) -> None:
        self.gap_ms = gap_ms
        self.num_streams = max(1, round(events_per_s * gap_ms / 1000))
        # each stream lasts about a second, and another follows it
        self.num_tokens = max(2, round(1000 / gap_ms))
        self.num_rounds = max(1, round(seconds))

    @property
    def times_ns(self) -> array[int]:
        per_round_ns = round((_FIRST_MS + self.num_tokens * self.gap_ms) * 1e6)
        spread_ns = per_round_ns // self.num_streams
        return array(
            "q",
            sorted(
                turn * per_round_ns + stream * spread_ns
                for turn in range(self.num_rounds)
                for stream in range(self.num_streams)
            ),
        )


# Returns the figures of one measurement against the server at a URL.
Measure = Callable[[str, Load], dict[str, Any]]


def measured(name: str, load: Load, measure: Measure) -> dict[str, Any]:
    """Prints and returns one client's figures, each with a server of its own."""
    with mock_process("--first-ms", str(_FIRST_MS), "--gap-ms", str(load.gap_ms)) as url:
        row = {"client": name, **measure(url, load)}
    print(
        f"{name:38} TTFT error p50 {row['ttft_p50_ms']:8.3f}  p99 {row['ttft_p99_ms']:8.3f}   "
        f"gap error p50 {row['gap_p50_ms']:8.3f}  p99 {row['gap_p99_ms']:8.3f} ms   "
        f"{row['events_per_s']:7,.0f} events/s   {row['cpu_us_per_event']:5.1f} us CPU/event",
        flush=True,
    )
    return row


def native(url: str, load: Load) -> dict[str, Any]:
    found = calibrate_against(parse_endpoint(url), load.times_ns, num_tokens=load.num_tokens)
    return {
        "ttft_p50_ms": found.ttft_error_p50_ms,
        "ttft_p99_ms": found.ttft_error_p99_ms,
        "gap_p50_ms": found.gap_error_p50_ms,
        "gap_p99_ms": found.gap_error_p99_ms,
        "user_ttft_p99_ms": found.user_ttft_error_p99_ms,
        "user_gap_p99_ms": found.user_gap_error_p99_ms,
        "lag_p99_ms": found.lag_p99_ms,
        "events_per_s": found.events_per_s,
        "cpu_us_per_event": found.cpu_us_per_event,
        "kernel_stamps": found.kernel_stamps,
    }


def blocked(measure: Measure) -> Measure:
    """The same while a greenlet computes for 50 ms, a quarter of the time, and yields to nobody."""

    def run(url: str, load: Load) -> dict[str, Any]:
        blocker = gevent.spawn(_block_for_ever)
        try:
            return measure(url, load)
        finally:
            blocker.kill()

    return run


def _block_for_ever() -> None:
    while True:
        until_s = time.perf_counter() + _BLOCK_S
        while time.perf_counter() < until_s:
            pass
        gevent.sleep(_BLOCK_EVERY_S - _BLOCK_S)


def fast_http(url: str, load: Load) -> dict[str, Any]:
    """locust's own streaming: `FastHttpSession` with `iter_lines`, stamped at each line."""
    from locust.contrib.fasthttp import FastHttpSession
    from locust.env import Environment

    environment = Environment()
    stamps: dict[str, list[int]] = {}

    def ask(number: int) -> None:
        session = FastHttpSession(base_url=url, request_event=environment.events.request, user=None)
        name = f"fast-{number}"
        own = stamps[name] = []
        body = {
            "model": "mock-base",
            "prompt": "a b",
            "max_tokens": load.num_tokens,
            "stream": True,
        }
        lines = session.iter_lines(
            "/v1/completions", method="POST", json=body, headers={"x-request-id": name}
        )
        for line in lines:
            if line.startswith("data:") and '"token_ids":[' in line:
                json.loads(line[5:])
                own.append(time.perf_counter_ns())

    return _paced(url, load, ask, stamps)


def _paced(
    url: str, load: Load, ask: Callable[[int], None], stamps: dict[str, list[int]]
) -> dict[str, Any]:
    cpu_s, start_s = time.process_time(), time.perf_counter()
    greenlets = [
        gevent.spawn_later(at_ns / 1e9, ask, number) for number, at_ns in enumerate(load.times_ns)
    ]
    gevent.joinall(greenlets)
    return _figures(
        url, stamps, cpu_s=time.process_time() - cpu_s, wall_s=time.perf_counter() - start_s
    )


def _figures(
    url: str, stamps: dict[str, list[int]], *, cpu_s: float, wall_s: float
) -> dict[str, Any]:
    served = msgspec.json.decode(
        http_get(parse_endpoint(url), "/mock/served"), type=list[ServedTimes]
    )
    pairs = [
        (stamps[one.request_id], one.sent_ns)
        for one in served
        if len(stamps.get(one.request_id, ())) == len(one.sent_ns) > 0
    ]
    if len(pairs) < len(served):
        print(
            f"  {len(served) - len(pairs)} of {len(served)} streams have other events", flush=True
        )
    ttft, gap = compare_stamps(pairs)
    num_events = sum(len(sent) for _, sent in pairs)
    return {
        "ttft_p50_ms": quantile(ttft, 0.5),
        "ttft_p99_ms": quantile(ttft, 0.99),
        "gap_p50_ms": quantile(gap, 0.5),
        "gap_p99_ms": quantile(gap, 0.99),
        "events_per_s": num_events / wall_s,
        "cpu_us_per_event": cpu_s * 1e6 / num_events,
        "kernel_stamps": 0.0,
    }


def foreign(name: str, python: str) -> Measure:
    """Another tool's client, in a process of its own that prints its stamps."""

    def run(url: str, load: Load) -> dict[str, Any]:
        script = Path(__file__).with_name("loadtest_clients") / f"{name}_client.py"
        asked = {"url": url, "num_tokens": load.num_tokens, "times_ns": list(load.times_ns)}
        done = subprocess.run(
            [python, str(script)],
            input=json.dumps(asked),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        told = json.loads(done.stdout.splitlines()[-1])
        return _figures(url, told["stamps"], cpu_s=told["cpu_s"], wall_s=told["wall_s"])

    return run


def stalled_server(
    *, rate: float = 25.0, seconds: float = 20.0, stall_s: float = 2.0
) -> dict[str, Any]:
    """The p99 of TTFT from the schedule, against a server that stops for a second, and what it is
    in theory: who arrives in the stall waits for its end, and then for the first token."""
    interval_ns = round(1e9 / rate)
    times_ns = array("q", (k * interval_ns for k in range(round(rate * seconds))))
    stall_at_s = 3.0
    with mock_process(
        *("--first-ms", str(_FIRST_MS), "--gap-ms", "5"),
        *("--stall-at", str(stall_at_s), "--stall-for", str(stall_s)),
    ) as url:
        records, origin_ns = send_schedule(parse_endpoint(url), times_ns, num_tokens=4)
        served = msgspec.json.decode(
            http_get(parse_endpoint(url), "/mock/served"), type=list[ServedTimes]
        )
    ttft_ms = sorted((r.event_ns[0] - r.t_sched_ns) / 1e6 for r in records)
    # the largest hole in what the server read is the stall, as it really was
    received = sorted(one.received_ns - origin_ns for one in served)
    hole_ns, end_ns = max((b - a, b) for a, b in pairwise(received))
    begin_ns = end_ns - min(hole_ns, round(stall_s * 1e9))
    theory_ms = sorted(
        _theory_ttft_ms(at_ns, begin_ns=begin_ns, end_ns=end_ns) for at_ns in times_ns
    )
    found, expected = quantile(ttft_ms, 0.99), quantile(theory_ms, 0.99)
    return {
        "p99_ms": found,
        "theory_p99_ms": expected,
        "line": f"stalled server: p99 of TTFT from schedule {found:.1f} ms, in theory "
        f"{expected:.1f} ms ({found / expected - 1:+.2%})",
    }


def _theory_ttft_ms(at_ns: int, *, begin_ns: int, end_ns: int) -> float:
    first_ns = round(_FIRST_MS * 1e6)
    if begin_ns <= at_ns < end_ns:  # read when the server goes on
        return (end_ns - at_ns + first_ns) / 1e6
    if at_ns < begin_ns < at_ns + first_ns:  # its first token was due in the stall
        return max(end_ns - at_ns, first_ns) / 1e6
    return first_ns / 1e6


if __name__ == "__main__":
    sys.exit(main())
