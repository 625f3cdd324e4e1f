"""The ring of the last steps: what is in an entry, what a reader gets, what is missing."""

from __future__ import annotations

import threading

from lorry_server.engine.engine import Engine
from lorry_server.engine.step_log import TOKEN_BUCKETS, StepEntry, StepLog
from tests.support.engines import make_engine, request, run_to_end
from tests.support.fake_clock import FakeClock
from tests.support.fake_runner import FakeRunner

PROMPT = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]


def entry(index: int, *, prefill: int = 0, decode: int = 1) -> StepEntry:
    return StepEntry(index, index * 1.0, index + 0.5, 1, prefill, decode, 0, 1, 0, 1, 0, 0)


def filled(num_steps: int, *, num_kept: int = 8) -> StepLog:
    log = StepLog(num_kept=num_kept)
    for index in range(num_steps):
        log.append(entry(index))
    return log


def indices(entries: list[StepEntry]) -> list[int]:
    return [entry.step_index for entry in entries]


def steps_of(engine: Engine) -> list[StepEntry]:
    return engine.step_log.read(since=0, limit=1000)


def test_without_an_index_the_newest_steps_are_read_oldest_first() -> None:
    assert indices(filled(20).read(since=None, limit=3)) == [17, 18, 19]
    assert indices(filled(2).read(since=None, limit=3)) == [0, 1]
    assert indices(filled(0).read(since=None, limit=3)) == []


def test_from_an_index_the_following_steps_are_read() -> None:
    log = filled(20)

    assert indices(log.read(since=14, limit=3)) == [14, 15, 16]
    assert indices(log.read(since=18, limit=3)) == [18, 19]
    assert indices(log.read(since=20, limit=3)) == []
    assert indices(log.read(since=10**18, limit=3)) == []


def test_what_was_overwritten_is_missing_at_the_beginning() -> None:
    assert indices(filled(20).read(since=3, limit=4)) == [12, 13, 14, 15]


def test_a_reader_beside_the_engines_thread_never_sees_a_hole_or_half_an_entry() -> None:
    log, has_ended = StepLog(num_kept=16), threading.Event()

    def write() -> None:
        for index in range(50_000):
            log.append(entry(index))
        has_ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    num_read = 0
    while not has_ended.is_set() or num_read == 0:
        read = log.read(since=None, limit=16)
        num_read += len(read)
        if read:
            assert indices(read) == list(range(read[0].step_index, read[0].step_index + len(read)))
            assert all(step.start_s == step.step_index for step in read)
    writer.join()


def test_tokens_of_all_steps_are_counted_by_size() -> None:
    log = StepLog(num_kept=2)
    for index, num_tokens in enumerate([1, 1, 8, 9, 16384, 16385]):
        log.append(entry(index, prefill=num_tokens - 1))

    counts = log.counts()

    assert dict(zip(TOKEN_BUCKETS, counts.counts, strict=False)) == dict.fromkeys(
        TOKEN_BUCKETS, 0
    ) | {1: 2, 8: 1, 16: 1, 16384: 1}
    assert counts.counts[-1] == 1
    assert counts.num_tokens == 1 + 1 + 8 + 9 + 16384 + 16385


def test_prompts_are_prefill_and_everything_after_them_is_decode() -> None:
    engine, _ = make_engine(max_num_batched_tokens=8)
    engine.add(request("a", PROMPT, max_tokens=3))
    run_to_end(engine)

    steps = steps_of(engine)

    assert indices(steps) == [0, 1, 2, 3]
    assert [(s.num_prefill_tokens, s.num_decode_tokens) for s in steps] == [
        (8, 0),
        (2, 0),
        (0, 1),
        (0, 1),
    ]


def test_a_prompt_of_one_token_is_prefill() -> None:
    engine, _ = make_engine()
    engine.add(request("a", [11], max_tokens=2))
    run_to_end(engine)

    assert [(s.num_prefill_tokens, s.num_decode_tokens) for s in steps_of(engine)] == [
        (1, 0),
        (0, 1),
    ]


def test_tokens_of_the_log_are_the_tokens_of_the_plans() -> None:
    engine, runner = make_engine(speculate=3, num_blocks=10, max_model_len=40)
    for index in range(6):
        engine.add(request(f"r{index}", [7, 8, 7, 8, 7, 8, index], max_tokens=20))
    run_to_end(engine)

    steps = steps_of(engine)

    assert [s.num_prefill_tokens + s.num_decode_tokens for s in steps] == [
        plan.num_tokens for plan in runner.plans
    ]
    assert [s.num_sequences for s in steps] == [plan.num_sequences for plan in runner.plans]
    assert sum(s.num_preemptions for s in steps) == engine.scheduler.counters.num_preemptions > 0


def test_adapters_of_a_step_are_counted_and_so_are_those_that_were_attached_for_it() -> None:
    engine, _ = make_engine(adapters={"x": 4, "y": 4})
    for name, adapter in (("a", "x"), ("b", "x"), ("c", "y"), ("d", None)):
        engine.add(request(name, PROMPT[:2], adapter=adapter, max_tokens=2))
    run_to_end(engine)

    first, second = steps_of(engine)

    assert (first.num_adapters, first.num_attaches) == (2, 2)
    assert (second.num_adapters, second.num_attaches) == (2, 0)


def test_a_step_says_who_ran_and_waited_and_what_the_cache_held() -> None:
    engine, _ = make_engine(max_num_seqs=2, prefix_caching=False)
    for name in "abc":
        engine.add(request(name, PROMPT, max_tokens=1))
    run_to_end(engine)

    first, *_ = steps_of(engine)

    assert (first.num_running, first.num_waiting) == (2, 1)
    assert first.num_used_blocks == 3 + 2  # 10 tokens, and 6 that the budget left


def test_the_times_of_a_step_are_those_of_its_requests() -> None:
    clock = FakeClock()
    runner = FakeRunner(num_blocks=32, block_size=4)
    runner.before_step = lambda _: clock.advance(0.25)
    engine, _ = make_engine(runner=runner, clock=clock)
    clock.advance(2.0)
    engine.add(request("a", PROMPT, max_tokens=2, arrival_s=1000.0))

    last = run_to_end(engine)["a"][-1]

    assert [(s.start_s, s.end_s) for s in steps_of(engine)] == [
        (1002.0, 1002.25),
        (1002.25, 1002.5),
    ]
    assert last.timings is not None
    assert (last.timings.queue_ms, last.timings.prefill_ms, last.timings.decode_ms) == (
        2000.0,
        250.0,
        250.0,
    )


def test_a_request_knows_the_first_and_the_last_of_its_steps() -> None:
    engine, _ = make_engine()
    engine.add(request("a", PROMPT[:3], max_tokens=3))
    engine.step()
    engine.add(request("b", PROMPT[:3], max_tokens=4))

    outputs = run_to_end(engine)

    a, b = outputs["a"][-1].timings, outputs["b"][-1].timings
    assert a is not None
    assert b is not None
    assert (a.first_step, a.last_step, a.steps) == (0, 2, 3)
    assert (b.first_step, b.last_step, b.steps) == (1, 4, 4)
