"""Every check fires on records with its fault, and is silent on clean ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.observations import CanaryBook, ClockSample, HostFacts, ServerSample
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.run_facts import DeclaredLoad, LocustTable
from lorry_loadtest.slo import parse_objectives
from lorry_loadtest.summary import summarize
from lorry_loadtest.validity.checks import CHECKS
from lorry_loadtest.validity.finding import Evidence, Finding
from lorry_loadtest.validity.verdict import judge
from tests.support.simulated_server import Load, ServerModel, simulate

Break = Callable[[LevelRun], LevelRun]

MODEL = ServerModel()
CLOSED = simulate(Load(), MODEL)
OPEN = simulate(Load(rate_per_s=8.0, duration_s=60.0), MODEL)
OVERLOADED = simulate(Load(rate_per_s=40.0, warmup_s=0.0), ServerModel(max_batch=4))

OBJECTIVES = parse_objectives("ttft_p95<500ms")


def finding_of(number: int, run: LevelRun) -> Finding:
    (check,) = [check for check in CHECKS if check.number == number]
    summary = summarize(run, objectives=OBJECTIVES)
    return check.find(Evidence(run, summary, levels=[summary]))


def with_records(run: LevelRun, change: Callable[[RequestRecord], RequestRecord]) -> LevelRun:
    return replace(run, records=tuple(change(record) for record in run.records))


def every(n: int, **fields: object) -> Break:
    """Changes each n-th record."""

    def apply(run: LevelRun) -> LevelRun:
        return with_records(
            run,
            lambda record: (
                msgspec.structs.replace(record, **fields) if record.index % n == 0 else record
            ),
        )

    return apply


def each(change: Callable[[RequestRecord], dict[str, object]]) -> Break:
    """Changes every record by its own values."""
    return lambda run: with_records(
        run, lambda record: msgspec.structs.replace(record, **change(record))
    )


def declared(**fields: object) -> Break:
    def apply(run: LevelRun) -> LevelRun:
        changed = replace(run.facts.declared, **fields)  # type: ignore[arg-type]
        return replace(run, facts=replace(run.facts, declared=changed))

    return apply


def observed(**fields: object) -> Break:
    def apply(run: LevelRun) -> LevelRun:
        changed = msgspec.structs.replace(run.facts.observations, **fields)
        return replace(run, facts=replace(run.facts, observations=changed))

    return apply


def worker(**fields: object) -> Break:
    def apply(run: LevelRun) -> LevelRun:
        reports = tuple(
            msgspec.structs.replace(report, **fields) for report in run.facts.observations.workers
        )
        return observed(workers=reports)(run)

    return apply


def facts(**fields: object) -> Break:
    return lambda run: replace(run, facts=replace(run.facts, **fields))  # type: ignore[arg-type]


def both(first: Break, second: Break) -> Break:
    return lambda run: second(first(run))


def without_kernel_stamps(record: RequestRecord) -> dict[str, object]:
    return {"event_kernel_ns": (), "kernel_stamps": False}


def read_in_blocks(record: RequestRecord) -> dict[str, object]:
    """Four events become visible with the fourth."""
    stamps = record.event_user_ns
    return {
        "event_user_ns": tuple(
            stamps[min(len(stamps) - 1, j - j % 4 + 3)] for j in range(len(stamps))
        )
    }


def merged_events(record: RequestRecord) -> dict[str, object]:
    """Two tokens in each event."""
    n = record.completion_tokens
    return {
        "event_kernel_ns": record.event_kernel_ns[1::2] + record.event_kernel_ns[-1:] * (n % 2),
        "event_user_ns": record.event_user_ns[1::2] + record.event_user_ns[-1:] * (n % 2),
        "event_tokens": (2,) * (n // 2) + (1,) * (n % 2),
    }


def arrives_at_once(record: RequestRecord) -> dict[str, object]:
    last = record.event_kernel_ns[-1]
    n = len(record.event_kernel_ns)
    return {
        "event_kernel_ns": tuple(last + 1000 * j for j in range(n)),
        "event_user_ns": tuple(last + 50_000 + 1000 * j for j in range(n)),
        "t_end_ns": last + 10_000_000,
        "t_done_ns": last + 10_000_000,
    }


def early_text(record: RequestRecord) -> dict[str, object]:
    return {
        "event_kernel_ns": (record.t_send_ns, *record.event_kernel_ns),
        "event_user_ns": (record.t_send_ns, *record.event_user_ns),
        "event_tokens": (1, *record.event_tokens),
    }


def late(record: RequestRecord) -> dict[str, object]:
    return {"t_send_ns": record.t_sched_ns + 40_000_000, "t_conn_ns": None}


def new_connection(record: RequestRecord) -> dict[str, object]:
    return {
        "t_conn_ns": record.t_sched_ns + 3_000_000,
        "t_send_ns": record.t_sched_ns + 3_100_000,
        "reused_connection": False,
    }


def more_than_users(run: LevelRun) -> LevelRun:
    """Every other answer is said to have taken ten seconds."""
    return with_records(
        run,
        lambda r: r if r.index % 2 else msgspec.structs.replace(r, t_end_ns=r.t_sched_ns + 10**10),
    )


def lost_records(run: LevelRun) -> LevelRun:
    """Those of the slowest third vanish, as at a stop without a drain."""
    kept = sorted(run.records, key=lambda r: r.t_end_ns - r.t_sched_ns)[: 2 * len(run.records) // 3]
    return replace(run, records=tuple(sorted(kept, key=lambda r: r.t_sched_ns)))


def all_at_once(run: LevelRun) -> LevelRun:
    start = run.window_start_ns
    return with_records(
        run,
        lambda r: msgspec.structs.replace(
            r, t_sched_ns=start + r.index, t_send_ns=start + r.index + 1000, t_conn_ns=None
        ),
    )


def warming_up(run: LevelRun) -> LevelRun:
    """The first half of the window is half as fast."""
    middle = (run.window_start_ns + run.window_end_ns) // 2

    def slow(record: RequestRecord) -> RequestRecord:
        if record.t_sched_ns > middle:
            return record
        first = record.event_kernel_ns[0]
        stretched = tuple(first + 2 * (stamp - first) for stamp in record.event_kernel_ns)
        return msgspec.structs.replace(
            record, event_kernel_ns=stretched, event_user_ns=stretched, t_end_ns=stretched[-1]
        )

    return with_records(run, slow)


def short_window(run: LevelRun) -> LevelRun:
    return replace(run, window_end_ns=run.window_start_ns + 300_000_000)


def doubled_rate(run: LevelRun) -> LevelRun:
    """Two workers, each with the whole stream."""
    again = (
        msgspec.structs.replace(record, index=record.index + len(run.records), worker=1)
        for record in run.records
    )
    return replace(run, records=tuple(sorted([*run.records, *again], key=lambda r: r.t_sched_ns)))


def counter_off(run: LevelRun) -> LevelRun:
    samples = run.facts.observations.server
    last = samples[-1]
    values = {
        name: value + (5 if "tokens" in name or "success" in name else 0)
        for name, value in last.values.items()
    }
    return observed(server=(*samples[:-1], ServerSample(t_ns=last.t_ns, values=values)))(run)


def held_back(run: LevelRun) -> LevelRun:
    """The server has a quarter of what the client believes to have sent."""
    samples = tuple(
        ServerSample(
            t_ns=sample.t_ns,
            values=sample.values | {"vllm:num_requests_running": 2.0},
        )
        for sample in run.facts.observations.server
    )
    return observed(server=samples)(run)


def swapped_mix(run: LevelRun) -> LevelRun:
    return declared(adapter_shares={"pirate": 0.8, "pricing": 0.1, None: 0.1})(run)


def one_slow_adapter(record: RequestRecord) -> dict[str, object]:
    if record.adapter != "pirate":
        return {}
    shift = 2_000_000_000
    moved = tuple(stamp + shift for stamp in record.event_kernel_ns)
    return {"event_kernel_ns": moved, "event_user_ns": moved, "t_end_ns": moved[-1]}


def cut_off(run: LevelRun) -> LevelRun:
    return every(20, outcome="cancelled", finish_reason=None, t_done_ns=None)(run)


FAULTS: list[tuple[int, str, LevelRun, Break, str]] = [
    (1, "late heartbeat", CLOSED, worker(heartbeat_lags_ms=(30.0,) * 200), "warn"),
    (
        1,
        "a busy worker without kernel stamps",
        CLOSED,
        both(each(without_kernel_stamps), worker(cpu_s=98.0, wall_s=100.0)),
        "warn",
    ),
    (
        1,
        "a blocked client without kernel stamps",
        CLOSED,
        both(each(without_kernel_stamps), worker(heartbeat_lags_ms=(50.0,) * 200)),
        "fail",
    ),
    (1, "tokens left in the kernel", CLOSED, each(
        lambda r: {"event_user_ns": tuple(s + 50_000_000 for s in r.event_kernel_ns)}), "warn"),
    (2, "block reads", CLOSED, each(read_in_blocks), "fail"),
    (3, "two tokens per event", CLOSED, each(merged_events), "warn"),
    (4, "a buffering proxy", CLOSED, each(arrives_at_once), "fail"),
    (4, "gzip", CLOSED, every(7, content_encoding="gzip"), "fail"),
    (5, "text before the first token", CLOSED, each(early_text), "fail"),
    (6, "usage is not what came", CLOSED, every(50, usage_completion=7), "fail"),
    (6, "the server counted more", CLOSED, counter_off, "fail"),
    (7, "stopped early", CLOSED, every(10, max_tokens=500), "fail"),
    (8, "cached prompts", CLOSED, each(lambda r: {"cached_tokens": r.usage_prompt}), "fail"),
    (8, "repeated prompts", CLOSED, each(lambda r: {"cached_tokens": None, "prompt_hash": "x"}), "fail"),
    (9, "late client", CLOSED, each(late), "warn"),
    (9, "dropped arrivals", OPEN, worker(num_dropped=60), "fail"),
    (10, "more under way than users", CLOSED, more_than_users, "fail"),
    (10, "a growing backlog", OVERLOADED, lambda run: run, "fail"),
    (11, "all at once", OPEN, all_at_once, "fail"),
    (12, "warm-up inside", CLOSED, warming_up, "fail"),
    (13, "short window", CLOSED, short_window, "fail"),
    (14, "lost records", CLOSED, lost_records, "fail"),
    (14, "censored", CLOSED, cut_off, "warn"),
    (14, "planned without a record", OPEN, observed(num_planned=10_000), "fail"),
    (15, "refused", CLOSED, every(4, outcome="http_429", finish_reason=None), "fail"),
    (16, "few", CLOSED, lambda run: replace(run, records=run.records[200:260]), "warn"),
    (17, "connections", CLOSED, each(new_connection), "warn"),
    (18, "held back", CLOSED, held_back, "warn"),
    (18, "client overload", OPEN, every(30, outcome="client_overload"), "fail"),
    (18, "all streams in use", OPEN, worker(max_in_flight=64, most_streams=64), "fail"),
    (19, "another stream", OPEN, observed(sent_hash="e" * 64), "fail"),
    (19, "doubled rate", OPEN, doubled_rate, "fail"),
    (19, "an index twice", CLOSED, every(2, index=0), "fail"),
    (20, "another table", CLOSED, facts(locust=LocustTable(num_requests=1, p50_ms=5.0)), "fail"),
    (21, "another mix", CLOSED, swapped_mix, "fail"),
    (21, "an adapter nobody wanted", CLOSED, every(90, adapter="other"), "fail"),
    (22, "wrong answers", CLOSED, both(
        every(40, canary="c", outcome="wrong_output"), observed(canaries=CanaryBook(answers={"c": "x"}))), "fail"),
    (22, "a swapped adapter", CLOSED, both(
        every(40, canary="c", text_hash="y"), observed(canaries=CanaryBook(answers={"c": "x"}))), "fail"),
    (23, "no finish reason", CLOSED, every(60, finish_reason=None), "fail"),
    (23, "no end of the stream", CLOSED, every(60, t_done_ns=None), "fail"),
    (24, "retries", CLOSED, counter_off, "fail"),
    (25, "steal", CLOSED, worker(host=HostFacts(steal_share=0.2)), "fail"),
    (25, "shared cores", CLOSED, worker(host=HostFacts(shares_cores=True)), "warn"),
    (25, "powersave", CLOSED, worker(host=HostFacts(governor="powersave")), "warn"),
    (26, "long template", CLOSED, each(lambda r: {"usage_prompt": 3 * r.prompt_tokens_planned}), "fail"),
    (27, "backwards", CLOSED, each(lambda r: {"t_send_ns": r.t_sched_ns - 1}), "fail"),
    (27, "a step of the clock", CLOSED, worker(
        clock=(ClockSample(0, 10**18), ClockSample(10**9, 10**18 + 10**8))), "fail"),
    (28, "rows", CLOSED, facts(locust=LocustTable(num_requests=20 * len(CLOSED.records))), "fail"),
    (30, "a slow adapter", CLOSED, each(one_slow_adapter), "warn"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "run", "fault", "status"),
    [
        pytest.param(n, run, fault, status, id=f"{n}-{name}")
        for n, name, run, fault, status in FAULTS
    ],
)
def test_a_check_fires_on_its_fault(number: int, run: LevelRun, fault: Break, status: str) -> None:
    finding = finding_of(number, fault(run))

    assert finding.status == status, finding
    assert finding.value


def test_hysteresis_is_found_between_the_way_up_and_the_way_down() -> None:
    up = summarize(CLOSED)
    slower = msgspec.structs.replace(
        up, descending=True, output_tokens_per_s=0.8 * up.output_tokens_per_s
    )
    same = msgspec.structs.replace(up, descending=True)
    check = next(check for check in CHECKS if check.number == 29)

    assert check.find(Evidence(CLOSED, up, levels=[up, slower])).status == "warn"
    assert check.find(Evidence(CLOSED, up, levels=[up, same])).status == "pass"
    assert check.find(Evidence(CLOSED, up, levels=[up])).status == "unknown"


def test_every_check_has_a_fault_here() -> None:
    assert {number for number, *_ in FAULTS} | {29} == {check.number for check in CHECKS}
    assert [check.number for check in CHECKS] == list(range(1, 31))


@pytest.mark.parametrize("seed", range(20))
def test_a_clean_run_raises_no_alarm(seed: int) -> None:
    load = Load(
        seed=seed,
        duration_s=40.0,
        concurrency=(4, 8, 12)[seed % 3],
        rate_per_s=(None, 6.0)[seed % 2],
    )
    run = simulate(load, MODEL, noise_seed=seed)
    summary = summarize(run, objectives=OBJECTIVES)

    verdict = judge([run], [summary])

    assert verdict.word == "VALID", verdict.alarms
    assert verdict.exit_code == 0
    checked = [result for result in verdict.results if result.finding.status == "pass"]
    assert len(checked) >= 26


def test_the_worst_machine_of_all_workers_decides() -> None:
    (report,) = CLOSED.facts.observations.workers
    other = msgspec.structs.replace(report, worker=1, host=HostFacts(steal_share=0.5))

    assert finding_of(25, CLOSED).status == "pass"
    assert finding_of(25, observed(workers=(report, other))(CLOSED)).status == "fail"


def test_the_worst_finding_of_all_levels_decides() -> None:
    broken = every(60, finish_reason=None)(CLOSED)
    runs = [CLOSED, broken]
    summaries = [summarize(run, objectives=OBJECTIVES) for run in runs]

    verdict = judge(runs, summaries)

    assert verdict.word == "INVALID"
    assert verdict.exit_code == 3
    assert (verdict.alarms[0].number, verdict.alarms[0].level) == (23, "8 streams")


def test_what_all_levels_say_alike_is_told_of_none_of_them() -> None:
    runs = [worker(host=HostFacts(shares_cores=True))(CLOSED)] * 2
    summaries = [summarize(run, objectives=OBJECTIVES) for run in runs]

    assert [(alarm.number, alarm.level) for alarm in judge(runs, summaries).alarms] == [(25, "")]


def test_warnings_alone_make_a_run_suspect_and_let_it_succeed() -> None:
    run = worker(host=HostFacts(shares_cores=True))(CLOSED)

    verdict = judge([run], [summarize(run, objectives=OBJECTIVES)])

    assert (verdict.word, verdict.exit_code) == ("SUSPECT", 0)


def test_what_was_not_measured_is_unknown_and_not_a_pass() -> None:
    run = facts(locust=None)(observed(server=(), workers=(), canaries=None)(CLOSED))

    statuses = {number: finding_of(number, run).status for number in (18, 20, 22, 24, 25, 28)}

    assert set(statuses.values()) == {"unknown"}


def test_a_declared_share_of_cached_tokens_is_no_fault() -> None:
    shared = each(lambda r: {"cached_tokens": (r.usage_prompt or 0) // 2})(CLOSED)

    assert finding_of(8, shared).status == "fail"
    assert finding_of(8, declared(cached_share=0.5)(shared)).status == "pass"


def test_lengths_of_the_models_own_choice_are_no_fault() -> None:
    early = every(10, max_tokens=500)(CLOSED)

    assert finding_of(7, declared(exact_lengths=False)(early)).status == "pass"
    assert DeclaredLoad().exact_lengths is False
