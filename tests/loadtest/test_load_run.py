"""One process of a run, without locust: engine, pacer, canaries, scraper, and what workers tell."""

from __future__ import annotations

import resource
import time
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from lorry_loadtest.arrivals import parse_arrival
from lorry_loadtest.ask_server import ask_server
from lorry_loadtest.catalog import Catalog
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.engine import Engine
from lorry_loadtest.gathered import sent_hash
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.limits import Limits
from lorry_loadtest.live import LiveSummary
from lorry_loadtest.mock_faults import Fault
from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.mock_stream import MockTimes
from lorry_loadtest.pacer import Pacer
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.preparation import prepare
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.run_state import RunState
from lorry_loadtest.schedule import Schedule
from lorry_loadtest.server_facts import ServerFacts
from lorry_loadtest.server_scrape import ServerScrape, parse_metrics
from lorry_loadtest.settings import LoadSettings
from lorry_loadtest.spool import Spool, merge_spools
from lorry_loadtest.wire import Wire
from tests.support.fake_locust import FakeEnvironment
from tests.support.load_settings import LOAD
from tests.support.loadtest_records import make_record
from tests.support.mock_llm_server import RunningMock, running_mock

FAST = MockTimes(first_ms=5, gap_ms=1)
SETTINGS = replace(LOAD, arrival=parse_arrival("constant:100"), lengths=Lengths.const(3))


def make_engine(mock: RunningMock, settings: LoadSettings = SETTINGS, **run: Any) -> Engine:
    return Engine(
        settings,
        run=RunState(**run),
        catalog=Catalog("mock-base", ("alpha", "beta")),
        wire=Wire(endpoint=parse_endpoint(mock.url), base_model="mock-base"),
        limits=Limits(),
        environment=FakeEnvironment(),
    )


def play(engine: Engine, *, until_s: float = 0.2) -> list[RequestRecord]:
    """Paces the engine's whole plan and waits for all answers."""

    def visit(planned: PlannedRequest) -> None:
        connection = engine.take_connection()
        engine.send(planned, connection=connection)
        engine.give_back(connection)

    pacer = Pacer(engine.schedule(until_s=until_s), run=engine.run, visit=visit)
    pacer.run()
    pacer.drain(timeout_s=10)
    engine.close()
    return sorted(engine.run.records, key=lambda record: record.index)


def test_what_was_sent_is_what_was_planned() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        engine = make_engine(mock)
        records = play(engine)

    assert [record.outcome for record in records] == ["ok"] * len(records)
    assert sent_hash(records, is_open_loop=True) == engine.stream_hash(until_s=0.2)


def test_requests_are_sent_when_they_are_due_and_not_when_earlier_ones_are_answered() -> None:
    times = MockTimes(first_ms=300, gap_ms=1)
    with running_mock(MockServer(times=times)) as mock:
        engine = make_engine(mock)
        records = play(engine)

    assert engine.run.max_in_flight == len(records) == 19
    assert all(r.t_send_ns is not None and r.t_send_ns >= r.t_sched_ns for r in records)


def test_each_attempt_fires_one_event_and_leaves_one_record() -> None:
    with running_mock(MockServer(times=FAST, faults={1: "http_500", 3: "cut"})) as mock:
        engine = make_engine(mock)
        records = play(engine, until_s=0.1)
        num_served = len(mock.server.served)
        events = engine._environment.events.request.fired

    assert len(records) == len(events) == num_served
    assert sum(event["exception"] is not None for event in events) == 2
    assert {event["response_length"] for event in events if not event["exception"]} == {3}


def test_a_client_that_has_no_file_left_for_a_connection_does_not_blame_the_server() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        engine = make_engine(mock)
        play(engine, until_s=0.015)  # so that only connections are opened from here on
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # no new one at all
        try:
            engine.run.records.clear()
            engine.run.start_ns = engine.run.now_ns
            (record,) = play(engine, until_s=0.015)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert record.outcome == "client_overload"


def test_what_was_due_when_the_test_stopped_counts_as_dropped() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        engine = make_engine(mock)
        engine.run.stopping.set()
        engine.run.start_ns = -100_000_000  # a tenth of a second ago
        play(engine)

    assert (engine.run.num_records, engine.run.num_dropped) == (0, 10)


def test_a_run_that_is_ended_early_tells_what_was_due_by_then() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        engine = make_engine(mock)
        gevent.spawn_later(0.1, engine.run.stopping.set)
        play(engine, until_s=60.0)

    run = engine.run
    assert run.num_due == run.num_records + run.num_dropped
    assert 5 <= (run.num_due or 0) < 1000 < (run.num_planned or 0)


def test_nothing_is_sent_before_it_is_due_whatever_timers_do() -> None:
    class Hasty:
        """An event whose timer fires after half of the time."""

        def is_set(self) -> bool:
            return False

        def wait(self, timeout: float) -> bool:
            gevent.sleep(timeout / 2)
            return False

    with running_mock(MockServer(times=FAST)) as mock:
        engine = make_engine(mock)
        engine.run.stopping = Hasty()  # type: ignore[assignment]
        records = play(engine)

    assert len(records) == 19
    assert all(record.t_send_ns is not None for record in records)
    assert all((record.t_send_ns or 0) >= record.t_sched_ns for record in records)


def test_tokens_are_counted_three_times_with_one_result() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        engine = make_engine(mock)
        scrape = ServerScrape(engine.wire.endpoint, origin_ns=engine.run.origin_ns)
        scrape.read_once()
        records = play(engine)
        scrape.stop()

    counter = 'vllm:generation_tokens_total{model_name="mock-base"}'
    grown = scrape.samples[-1].values[counter] - scrape.samples[0].values[counter]
    assert grown == sum(record.usage_completion or 0 for record in records)
    assert grown == sum(sum(record.event_tokens) for record in records)
    assert len(scrape.steps) == grown
    assert scrape.steps[0]["t_ns"] == pytest.approx(records[0].event_ns[0], abs=50_000_000)


def test_a_server_without_metrics_and_steps_costs_one_note_each() -> None:
    with running_mock(MockServer(times=FAST, tells_of_itself=False)) as mock:
        scrape = ServerScrape(parse_endpoint(mock.url), origin_ns=0)
        for _ in range(3):
            scrape.read_once()
        scrape.stop()

    assert (scrape.samples, list(scrape.steps)) == ([], [])
    assert [note.partition(":")[0] for note in scrape.notes] == [
        "the server offers no metrics",
        "the server offers no steps",
    ]


def test_a_long_run_keeps_a_bounded_number_of_samples_and_both_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lorry_loadtest.server_scrape.MAX_SAMPLES", 4)
    with running_mock(MockServer(times=FAST)) as mock:
        scrape = ServerScrape(parse_endpoint(mock.url), origin_ns=0)
        scrape.read_once()
        first = scrape.samples[0]
        for _ in range(30):
            scrape.read_once()
            assert len(scrape.samples) <= 4
        before_ns = time.perf_counter_ns()
        scrape.stop()

    assert scrape.samples[0] is first
    assert scrape.samples[-1].t_ns >= before_ns


def test_a_long_run_keeps_the_latest_steps_and_says_how_many_it_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lorry_loadtest.server_scrape.MAX_STEPS", 10)
    with running_mock(MockServer(times=FAST)) as mock:
        engine = make_engine(mock)
        scrape = ServerScrape(engine.wire.endpoint, origin_ns=engine.run.origin_ns)
        scrape.read_once()
        records = play(engine)
        scrape.stop()

    num_steps = sum(len(record.event_ns) for record in records)
    assert [step["index"] for step in scrape.steps] == list(range(num_steps - 10, num_steps))
    assert scrape.notes == [
        f"of the server's step log the latest 10 steps were kept and the {num_steps - 10} before "
        "them left out: no cause is told of earlier stalls"
    ]


def test_records_are_on_disk_while_a_run_goes_on(tmp_path: Path) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        spool = Spool(tmp_path / "records.jsonl")
        engine = make_engine(mock, spool=spool)
        assert play(engine) == []
        spool.close()

    assert engine.run.num_records == 19
    assert sorted(record.index for record in merge_spools([spool.path])) == list(range(19))


def test_a_server_is_asked_what_it_is() -> None:
    with running_mock(MockServer()) as mock:
        facts = ask_server(parse_endpoint(mock.url), api_key=None)
    with running_mock(MockServer(tells_of_itself=False)) as mock:
        silent = ask_server(parse_endpoint(mock.url), api_key=None)

    assert (facts.program, facts.weights) == ("mock", "not quantized, float32, cpu")
    assert silent == ServerFacts()


def test_series_are_read_without_buckets() -> None:
    text = '# HELP x y\na{m="b c"} 3\nh_bucket{le="1"} 2\nh_sum 4.5\nnot a sample\n'

    assert parse_metrics(text) == {'a{m="b c"}': 3.0, "h_sum": 4.5}


def learned(mock: RunningMock) -> Engine:
    engine = make_engine(mock, replace(SETTINGS, canary_share=0.5))
    prepared = prepare([engine], until_s=0.2, calibrates=False)
    assert len(prepared.records) == 8  # two adapters, two prompts, twice
    assert {record.phase for record in prepared.records} == {"learn"}
    engine.run.answers.update(prepared.answers)
    engine.run.origin_ns = time.perf_counter_ns()
    return engine


def test_canaries_find_nothing_where_nothing_is_wrong() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        records = play(learned(mock))

    assert sum(record.canary is not None for record in records) == len(records) // 2
    assert {record.outcome for record in records} == {"ok"}


def test_a_swapped_adapter_is_found_by_its_canary() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        engine = learned(mock)
        mock.server.fault_every, mock.server.fault = 1, "wrong_adapter"
        records = play(engine)

    outcomes = {record.canary is not None: record.outcome for record in records}
    assert outcomes == {True: "wrong_output", False: "ok"}


def test_an_answer_that_the_idle_server_does_not_repeat_is_not_compared() -> None:
    with running_mock(MockServer(times=FAST, faults={1: "wrong_adapter"})) as mock:
        engine = make_engine(mock, replace(SETTINGS, canary_share=0.5))
        book = prepare([engine], until_s=0.2, calibrates=False).canaries

    assert book is not None
    assert book.unstable == ("alpha/0",)
    assert len(book.answers) == 3


def test_a_user_whose_patience_ends_leaves() -> None:
    times = MockTimes(first_ms=5, gap_ms=60_000)
    with running_mock(MockServer(times=times)) as mock:
        engine = make_engine(mock, replace(SETTINGS, patience_s=0.02))
        records = play(engine, until_s=0.05)

    assert {record.outcome for record in records} == {"abandoned"}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("wrong_usage", ("ok", 4, 3)),
        ("short", ("ok", 1, 1)),
        ("role_chunk", ("ok", 3, 3)),
        ("buffered", ("ok", 3, 3)),
        ("stall", ("ok", 3, 3)),
    ],
)
def test_a_fault_shows_in_the_record(fault: Fault, expected: tuple[str, int, int]) -> None:
    times = replace(FAST, stall_ms=60)
    with running_mock(MockServer(times=times, faults={0: fault})) as mock:
        (record,) = play(make_engine(mock), until_s=0.015)

    assert (record.outcome, record.usage_completion, sum(record.event_tokens)) == expected
    first_ns = mock.server.served[0].sent_ns
    assert len(first_ns) == len(record.event_ns)
    if fault == "stall":
        assert record.t_send_ns is not None
        assert record.event_ns[1] - record.t_send_ns > 55_000_000


def test_a_server_that_sleeps_as_if_stopped_delays_all_that_was_due() -> None:
    with running_mock(MockServer(times=FAST, stall_at_s=0.1, stall_s=0.3)) as mock:
        records = play(make_engine(mock), until_s=0.5)

    waited_ms = [(record.event_ns[0] - record.t_sched_ns) / 1e6 for record in records]
    # those who came in the stall waited for its end: about 300, 290, 280, ... ms
    assert sum(wait > 50 for wait in waited_ms) >= 20
    assert max(waited_ms) > 250


def test_live_figures_of_workers_add_up() -> None:
    whole, master, workers = LiveSummary(), LiveSummary(), [LiveSummary(), LiveSummary()]
    for number in range(40):
        record = make_record(events_ms=(number + 1.0, number + 3.0), adapter=f"a{number % 3}")
        whole.add(record)
        workers[number % 2].add(record)

    for worker in workers:
        master.merge(worker.take())
        assert worker.as_dict()["outcomes"] == {}

    assert master.as_dict() == whole.as_dict()


def test_with_many_adapters_the_rest_share_a_line() -> None:
    live = LiveSummary()
    for number in range(50):
        live.add(make_record(events_ms=(1.0, 2.0), adapter=f"a{number}"))

    names = {adapter for metric, adapter in live.histograms if metric == "ttft_ms"}
    assert "(others)" in names
    assert len(names) == 20 + 2  # and the one of all


def test_a_closed_loop_takes_every_nth_request_of_the_stream() -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        closed = replace(SETTINGS, arrival=None)
        engines = [make_engine(mock, closed, worker=k, num_workers=2) for k in range(2)]

    assert [engines[0].next_request().index for _ in range(3)] == [0, 2, 4]
    assert [engines[1].next_request().index for _ in range(3)] == [1, 3, 5]


def test_a_paced_plan_is_not_late_for_having_been_drawn() -> None:
    """Plans are drawn ahead of their times; what is left is the timer and the greenlets."""
    drawn: list[int] = []
    sent_ns: list[int] = []
    num_drawn: list[int] = []  # when each was sent

    class Noting(Schedule):
        def request_at(self, index: int) -> PlannedRequest:
            drawn.append(index)
            return super().request_at(index)

    def visit(planned: PlannedRequest) -> None:
        sent_ns.append(engine.run.now_ns)
        num_drawn.append(len(drawn))

    with running_mock(MockServer(times=FAST)) as mock:
        engine = make_engine(mock)
        plan = engine.schedule(until_s=0.2)
        schedule = Noting(plan.workload, array("q", range(0, 100_000_000, 5_000_000)))
        engine.run.origin_ns = time.perf_counter_ns()
        Pacer(schedule, run=engine.run, visit=visit).run()
        gevent.sleep(0)

    assert drawn == list(range(20))
    assert all(sent >= due for sent, due in zip(sent_ns, schedule.times_ns, strict=True))
    # when one is sent, those that are due next have long been drawn
    assert all(num >= min(k + 8, 20) for k, num in enumerate(num_drawn))
