"""A sequence whose time is up is ended between two steps, wherever it is."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from lorry_server.engine.deadlines import MIN_SIZE_TO_TIDY, Deadlines
from lorry_server.engine.engine import Engine, StepFailed
from lorry_server.engine.outputs import FinishReason, TokenOutput
from lorry_server.engine.sequence import Sequence
from tests.support.engines import VOCAB_SIZE, expected_tokens, generated, make_engine, request
from tests.support.fake_clock import FakeClock
from tests.support.fake_runner import FakeRunner

PROMPT = [11, 12, 13, 14, 15]


def step(engine: Engine) -> dict[str, TokenOutput]:
    outputs = {output.request_id: output for output in engine.step()}
    engine.check_integrity()
    return outputs


def test_one_whose_time_is_up_while_it_waits_is_never_computed() -> None:
    clock = FakeClock()
    engine, runner = make_engine(max_num_seqs=1, clock=clock)
    engine.add(request("first", PROMPT, max_tokens=4))
    engine.add(request("late", [99, 98], arrival_s=1000.0, deadline_s=1001.0))
    step(engine)

    clock.advance(1.0)
    outputs = step(engine)

    assert outputs["late"].finish_reason is FinishReason.DEADLINE
    assert outputs["late"].timings is not None
    assert outputs["late"].timings.steps == 0
    assert outputs["late"].timings.first_step is None
    assert len(outputs["first"].token_ids) == 1
    while engine.has_work:
        step(engine)
    computed = {token for plan in runner.plans for token in plan.token_ids_T.tolist()}
    assert not computed & {98, 99}


def test_one_whose_time_was_up_before_it_came_ends_though_nothing_else_is_to_do() -> None:
    engine, runner = make_engine(clock=FakeClock())
    engine.add(request("late", PROMPT, deadline_s=999.0))

    outputs = step(engine)

    assert outputs["late"].finish_reason is FinishReason.DEADLINE
    assert runner.plans == []
    assert not engine.has_work


def test_a_deadline_that_is_lifted_ends_nothing_and_the_others_stay() -> None:
    clock = FakeClock()
    engine, _ = make_engine(clock=clock)
    for name in ("lifted", "late"):
        engine.add(request(name, PROMPT, max_tokens=4, deadline_s=1000.5))
    engine.add(request("later", PROMPT, max_tokens=9, deadline_s=1001.5))
    step(engine)

    engine.lift_deadline("lifted")
    engine.lift_deadline("unknown")
    clock.advance(1.0)
    ends = {"late": step(engine)["late"].finish_reason}
    clock.advance(1.0)
    while engine.has_work:
        for name, output in step(engine).items():
            ends[name] = output.finish_reason

    assert ends == {
        "late": FinishReason.DEADLINE,
        "later": FinishReason.DEADLINE,
        "lifted": FinishReason.LENGTH,
    }


def test_one_that_runs_gives_back_what_it_holds_and_disturbs_nobody() -> None:
    clock = FakeClock()
    engine, _ = make_engine(adapters={"x": 4}, clock=clock)
    engine.add(request("late", PROMPT, adapter="x", max_tokens=50, deadline_s=1002.0))
    engine.add(request("other", PROMPT, max_tokens=8))
    outputs: dict[str, list[TokenOutput]] = defaultdict(list)
    while engine.has_work:
        for request_id, output in step(engine).items():
            outputs[request_id].append(output)
        clock.advance(0.5)

    last = outputs["late"][-1]
    assert last.finish_reason is FinishReason.DEADLINE
    assert last.token_ids == ()
    assert generated(outputs["late"]) == expected_tokens(PROMPT, 4, adapter=0)
    assert generated(outputs["other"]) == expected_tokens(PROMPT, 8)
    assert engine.scheduler.pool.num_used == 0
    assert engine.residency.num_pins == 0


def test_one_that_ends_in_the_step_in_which_its_time_runs_out_is_whole() -> None:
    clock = FakeClock()
    runner = FakeRunner(num_blocks=32, block_size=4, vocab_size=VOCAB_SIZE)
    runner.before_step = lambda _: clock.advance(1.0)
    engine, _ = make_engine(runner=runner, clock=clock)
    engine.add(request("a", PROMPT, max_tokens=1, deadline_s=1000.5))

    outputs = step(engine)

    assert outputs["a"].finish_reason is FinishReason.LENGTH
    assert generated([outputs["a"]]) == expected_tokens(PROMPT, 1)


def test_one_that_was_preempted_and_waits_again_is_ended_too() -> None:
    clock = FakeClock()
    engine, _ = make_engine(num_blocks=6, max_model_len=24, prefix_caching=False, clock=clock)
    engine.add(request("old", PROMPT, max_tokens=18))
    engine.add(request("young", [1, 2, 3, 4, 5], max_tokens=18, deadline_s=1001.0))
    while not engine.scheduler.counters.num_preemptions:
        step(engine)

    clock.advance(1.0)
    outputs = step(engine)

    assert outputs["young"].finish_reason is FinishReason.DEADLINE
    assert outputs["young"].timings is not None
    assert outputs["young"].timings.preemptions == 1
    assert outputs["young"].timings.steps > 0


def test_a_step_that_fails_does_not_swallow_what_was_ended_before_it() -> None:
    clock = FakeClock()
    runner = FakeRunner(num_blocks=32, block_size=4, vocab_size=VOCAB_SIZE, fail_at=frozenset({1}))
    engine, _ = make_engine(runner=runner, clock=clock)
    engine.add(request("late", PROMPT, deadline_s=1000.0))
    engine.add(request("failed", PROMPT))

    with pytest.raises(StepFailed) as failure:
        engine.step()

    assert {output.request_id: output.finish_reason for output in failure.value.outputs} == {
        "late": FinishReason.DEADLINE,
        "failed": FinishReason.ERROR,
    }


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_together_every_request_ends_once_and_those_in_time_are_whole(
    seed: int,
) -> None:
    """Deadlines, aborts, preemption, chunks, shared prefixes and adapters that take turns."""
    rng = random.Random(seed)
    clock = FakeClock()
    engine, _ = make_engine(
        num_blocks=14,
        max_num_seqs=4,
        max_model_len=40,
        adapters={"x": 4, "y": 4, "z": 4},
        adapter_budget=8,
        clock=clock,
        speculate=rng.choice([0, 3]),
    )
    numbers = {None: -1, "x": 0, "y": 1, "z": 2}
    requests, ends, outputs = {}, defaultdict(list), defaultdict(list)

    def note(output: TokenOutput | None) -> None:
        if output is None:
            return
        outputs[output.request_id].append(output)
        if output.finish_reason is not None:
            ends[output.request_id].append(output.finish_reason)

    for index in range(40):
        prompt = [rng.randrange(8, 12) for _ in range(rng.randrange(1, 20))]
        deadline_s = rng.choice([None, clock.now_s + rng.uniform(0.0, 30.0)])
        name = f"r{index}"
        requests[name] = request(
            name,
            prompt,
            adapter=rng.choice([None, "x", "y", "z"]),
            max_tokens=rng.randrange(1, 20),
            deadline_s=deadline_s,
        )
        engine.add(requests[name])
        for _ in range(rng.randrange(3)):
            clock.advance(0.25)
            for output in engine.step():
                note(output)
            engine.check_integrity()
        if rng.random() < 0.1:
            note(engine.abort(rng.choice(list(requests))))
            engine.check_integrity()
    while engine.has_work:
        clock.advance(0.25)
        for output in engine.step():
            note(output)
        engine.check_integrity()

    assert {name: len(reasons) for name, reasons in ends.items()} == dict.fromkeys(requests, 1)
    assert any(reasons == [FinishReason.DEADLINE] for reasons in ends.values())
    for name, wanted in requests.items():
        tokens = generated(outputs[name])
        expected = expected_tokens(
            list(wanted.prompt_token_ids),
            wanted.sampling.max_tokens,
            adapter=numbers[wanted.adapter],
        )
        assert tokens == expected[: len(tokens)]
        if ends[name] == [FinishReason.LENGTH]:
            assert tokens == expected
        assert wanted.deadline_s is not None or ends[name] != [FinishReason.DEADLINE]
    assert engine.scheduler.pool.num_used == 0


def test_sequences_that_ended_long_before_their_deadlines_are_let_go_of() -> None:
    deadlines = Deadlines()
    for order in range(10_000):
        sequence = Sequence(
            request(str(order), PROMPT, deadline_s=2000.0 + order), order=order, block_size=4
        )
        deadlines.add(sequence)
        if order % 100:
            sequence.finish_reason = FinishReason.LENGTH

    assert len(deadlines) <= 2 * 100 + MIN_SIZE_TO_TIDY
    assert len(deadlines.take_expired(1e9)) == 100


def test_the_earliest_deadline_comes_first_and_those_without_one_never() -> None:
    deadlines = Deadlines()
    for order, deadline_s in enumerate([5.0, None, 3.0, 4.0, 3.0]):
        wanted = request(str(order), PROMPT, deadline_s=deadline_s)
        deadlines.add(Sequence(wanted, order=order, block_size=4))

    assert [s.order for s in deadlines.take_expired(2.9)] == []
    assert [s.order for s in deadlines.take_expired(4.0)] == [2, 4, 3]
    assert [s.order for s in deadlines.take_expired(100.0)] == [0]
