"""Faults of a server, of a client and of a machine fire their checks through the client itself.

`test_validity` has the checks' own limits, on records that were changed; here nothing is changed
behind the client's back. What no fault can do on this path is said at the end.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import gevent
import pytest

from lorry_loadtest import wall_clock
from lorry_loadtest.adapter_mix import mix_of
from lorry_loadtest.connection import Connection
from lorry_loadtest.engine import Engine
from lorry_loadtest.host_watch import HostWatch
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.mock_faults import Fault
from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.mock_stream import MockTimes
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.summary import summarize
from lorry_loadtest.validity.checks import CHECKS
from lorry_loadtest.validity.finding import Evidence, Finding
from tests.support.load_settings import LOAD
from tests.support.measured_level import Measured
from tests.support.mock_llm_server import RunningMock

TIMES = MockTimes(first_ms=20, gap_ms=6)


def finding_of(number: int, run: LevelRun) -> Finding:
    (check,) = [check for check in CHECKS if check.number == number]
    summary = summarize(run)
    return check.find(Evidence(run, summary, levels=[summary]))


def sick(fault: Fault, *, every: int = 1, times: MockTimes = TIMES) -> Callable[[], MockServer]:
    return lambda: MockServer(times=times, fault_every=every, fault=fault)


def sound(**times: float) -> Callable[[], MockServer]:
    return lambda: MockServer(times=replace(TIMES, **times))  # type: ignore[arg-type]


def holds_the_interpreter(mock: RunningMock, engine: Engine) -> None:
    """As a locustfile does that computes: one long call into C after the other."""
    while True:
        sum(range(4_000_000))
        gevent.sleep(0.005)


def slows_down(mock: RunningMock, engine: Engine) -> None:
    mock.server.times = replace(mock.server.times, gap_ms=3 * mock.server.times.gap_ms)


def somebody_else_asks(mock: RunningMock, engine: Engine) -> None:
    """With requests that no record tells of."""
    for _ in range(3):
        engine.tries(
            engine.workload.request_at(0),
            wire=engine.wire,
            connection=Connection(engine.wire.endpoint, connect_timeout_s=5.0),
            limits=engine.limits,
            origin_ns=0,
        )


def always_alpha(planned: PlannedRequest) -> PlannedRequest:
    return replace(planned, adapter="alpha")


def sends_the_first_again(engine: Engine) -> None:
    engine._next_indices = itertools.repeat(0)


FAULTS: list[tuple[int, str, Measured, set[str]]] = [
    (1, "a client that holds the interpreter", Measured(
        sound(), arrival="poisson:60", duration_s=1.5, own_process=True, while_running=holds_the_interpreter), {"warn", "fail"}),
    (2, "four events in one write", Measured(sick("coalesced")), {"fail"}),
    (3, "two tokens in an event", Measured(sound(tokens_per_event=2)), {"warn"}),
    (4, "a proxy that collects the answer", Measured(sick("buffered")), {"fail"}),
    (5, "a token that nobody computed", Measured(sick("early_text", every=5)), {"fail"}),
    (6, "a wrong usage", Measured(sick("wrong_usage", every=5)), {"fail"}),
    (7, "short answers", Measured(sick("short", every=5), ignore_eos=True), {"fail"}),
    (8, "a prompt from the cache", Measured(sick("cached")), {"fail"}),
    (9, "a client that is late", Measured(
        sound(), arrival="poisson:60", duration_s=1.5, own_process=True, while_running=holds_the_interpreter), {"warn", "fail"}),
    (10, "a growing backlog", Measured(
        sound(slowdown=0.5), arrival="constant:60", drain_s=20.0), {"warn", "fail"}),
    (11, "all at once", Measured(
        sound(first_ms=400), arrival="constant:1500x0.02s", duration_s=0.2), {"fail"}),
    (12, "a server that slows down", Measured(
        sound(gap_ms=3), arrival="constant:40", duration_s=2.0, while_running=slows_down), {"warn", "fail"}),
    (13, "answers as long as the window", Measured(sound(first_ms=500), users=24), {"warn", "fail"}),
    (14, "a drain that cuts off", Measured(sound(gap_ms=60_000), drain_s=0.0), {"fail"}),
    (15, "refusals", Measured(sick("http_429", every=4)), {"fail"}),
    (16, "few requests", Measured(sound(first_ms=300), users=2), {"warn"}),
    (17, "a connection for each request", Measured(sick("closing", times=replace(TIMES, first_ms=1))), {"warn"}),
    (19, "a worker that sends the same again", Measured(sound(), on_engine=sends_the_first_again), {"fail"}),
    (21, "another mix than was asked for", Measured(sound(), user_code=always_alpha), {"fail"}),
    (22, "another adapter's answers", Measured(
        sick("wrong_adapter", every=3), replace(LOAD, canary_share=0.4)), {"fail"}),
    (24, "requests of somebody else", Measured(sound(), while_running=somebody_else_asks), {"fail"}),
    (26, "a template that nobody declared", Measured(sick("long_template")), {"fail"}),
    (30, "an adapter that is left behind", Measured(
        lambda: MockServer(
            TIMES, adapters=("alpha", "beta", "gamma"), fault_every=1, fault="slow_adapter"),
        replace(LOAD, adapters=mix_of(["alpha", "beta", "gamma"])),
        users=24, duration_s=1.5), {"warn"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "measured", "statuses"),
    [pytest.param(n, measured, s, id=f"{n}-{name}") for n, name, measured, s in FAULTS],
)
def test_a_fault_fires_its_check(number: int, measured: Measured, statuses: set[str]) -> None:
    finding = finding_of(number, measured.run())

    assert finding.status in statuses, finding


def test_a_client_without_room_fires_the_check_of_its_limits() -> None:
    def no_more_files(mock: RunningMock, engine: Engine) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    measured = Measured(
        sick("closing"), arrival="constant:40", duration_s=0.5, while_running=no_more_files
    )
    try:
        run = measured.run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert finding_of(18, run).status == "fail"


def test_time_that_the_hypervisor_took_fires_the_check_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stat").write_text("cpu 100 0 0 100 0 0 0 0 0 0\n")
    monkeypatch.setattr("lorry_loadtest.health.HostWatch", partial(HostWatch, proc=tmp_path))

    def steals(mock: RunningMock, engine: Engine) -> None:
        (tmp_path / "stat").write_text("cpu 150 0 0 100 0 0 0 50 0 0\n")

    run = Measured(sound(), duration_s=0.3, while_running=steals).run()

    assert finding_of(25, run).status == "fail"


def test_a_wall_clock_that_was_set_fires_the_check_of_the_clocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true_offset_ns = wall_clock.offset_now_ns

    def sets_the_clock(mock: RunningMock, engine: Engine) -> None:
        """The kernel stamps by the old time, and is read by the new one."""
        monkeypatch.setattr(wall_clock, "offset_now_ns", lambda: true_offset_ns() + 80_000_000)

    run = Measured(sound(), duration_s=3.0, while_running=sets_the_clock).run()
    monkeypatch.undo()
    time.sleep(0.15)  # the thread that stamps looks at the clock ten times a second

    assert finding_of(27, run).status == "fail"


def test_what_no_fault_of_a_server_can_do_is_by_the_clients_construction() -> None:
    """A role starts no clock, and an answer without its end is no success."""
    roles = Measured(sick("role_chunk")).run()
    cut = Measured(sick("no_done", every=3)).run()

    assert finding_of(5, roles).status == "pass"
    assert {r.outcome for r in cut.measured} == {"ok", "truncated"}
    assert finding_of(23, cut).status == "pass"


def test_every_check_is_fired_here_or_by_a_run_of_locust_or_cannot_be() -> None:
    fired = {number for number, *_ in FAULTS} | {18, 25, 27}
    under_locust = {20, 28, 29}  # test_locustfiles, test_loadtest_cli

    assert fired | under_locust | {23} == {check.number for check in CHECKS}
