"""The clients that run in this process: the load test's own, and locust's `FastHttpUser`."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import gevent
import msgspec

from loadtest_sections.load import Load
from loadtest_sections.row import Figures, figures_of, middle_rate
from lorry_loadtest.calibration import ServedTimes, calibrate_against
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.http_get import http_get

_BLOCK_S = 0.05
_BLOCK_EVERY_S = 0.2


def own_client(url: str, load: Load) -> Figures:
    times_ns = load.times_ns
    found = calibrate_against(parse_endpoint(url), times_ns, num_tokens=load.num_tokens)
    return Figures(
        num_streams=found.num_requests,
        num_lost=len(times_ns) - found.num_requests,
        num_events=found.num_events,
        events_per_s=middle_rate(served_times(url)),
        ttft_p50_ms=found.ttft_error_p50_ms,
        ttft_p99_ms=found.ttft_error_p99_ms,
        gap_p50_ms=found.gap_error_p50_ms,
        gap_p99_ms=found.gap_error_p99_ms,
        cpu_us_per_event=found.cpu_us_per_event,
        remark=f"kernel stamps on {found.kernel_stamps:.0%} of streams; without them p99 "
        f"{found.user_ttft_error_p99_ms:.3f} and {found.user_gap_error_p99_ms:.3f}",
    )


def own_client_blocked(url: str, load: Load) -> Figures:
    """The same while a greenlet computes for 50 ms, a quarter of the time, and yields to nobody."""
    blocker = gevent.spawn(_block_for_ever)
    try:
        found = own_client(url, load)
    finally:
        blocker.kill()
    return replace(found, cpu_us_per_event=None)


def _block_for_ever() -> None:
    while True:
        until_s = time.perf_counter() + _BLOCK_S
        while time.perf_counter() < until_s:
            pass
        gevent.sleep(_BLOCK_EVERY_S - _BLOCK_S)


def fast_http_user(url: str, load: Load) -> Figures:
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

    cpu_s = time.process_time()
    gevent.joinall(
        [gevent.spawn_later(at_ns / 1e9, ask, number) for number, at_ns in enumerate(load.times_ns)]
    )
    cpu_s = time.process_time() - cpu_s
    return figures_of(served_times(url), stamps, num_asked=len(load.times_ns), cpu_s=cpu_s)


def served_times(url: str) -> list[ServedTimes]:
    """What the mock server tells of the requests that it had."""
    return msgspec.json.decode(
        http_get(parse_endpoint(url), "/mock/served"), type=list[ServedTimes]
    )
