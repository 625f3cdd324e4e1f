"""Whole generations on a runner without a model: every way to the same tokens."""

from __future__ import annotations

import random

import pytest

from lorry_server.engine.engine import StepFailed
from lorry_server.engine.outputs import FinishReason
from tests.support.engines import (
    EOS,
    expected_tokens,
    generated,
    make_engine,
    request,
    run_to_end,
)
from tests.support.fake_runner import FakeRunner

PROMPT = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]


def test_one_request_gets_its_tokens_and_ends_by_length() -> None:
    engine, _ = make_engine()
    engine.add(request("a", PROMPT, max_tokens=5))

    outputs = run_to_end(engine)["a"]

    assert generated(outputs) == expected_tokens(PROMPT, 5)
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert outputs[-1].timings is not None


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    engine, runner = make_engine(max_num_batched_tokens=8)
    prompt = list(range(100, 130))
    engine.add(request("a", prompt, max_tokens=2))

    outputs = run_to_end(engine)["a"]

    assert [plan.num_tokens for plan in runner.plans] == [8, 8, 8, 6, 1]
    assert generated(outputs) == expected_tokens(prompt, 2)


def test_a_running_decode_gets_a_token_in_every_step_of_a_long_prefill() -> None:
    engine, runner = make_engine(max_num_batched_tokens=8)
    engine.add(request("short", PROMPT[:2], max_tokens=7))
    engine.step()
    engine.add(request("long", list(range(100, 140)), max_tokens=1))

    ids_per_step = [[o.request_id for o in engine.step()] for _ in range(6)]

    assert ids_per_step[:5] == [["short"]] * 5
    assert [plan.num_tokens for plan in runner.plans[1:6]] == [8] * 5
    assert ids_per_step[5] == ["short", "long"]


def test_a_short_request_ends_long_before_a_long_one_that_came_first() -> None:
    engine, _ = make_engine(num_blocks=64, max_model_len=256)
    engine.add(request("long", PROMPT, max_tokens=200))
    for _ in range(5):
        engine.step()
    engine.add(request("short", PROMPT[:3], max_tokens=10))

    order = []
    while engine.has_work:
        order += [o.request_id for o in engine.step() if o.finish_reason]

    assert order == ["short", "long"]


def test_a_repeated_prompt_is_found_in_the_prefix_cache() -> None:
    engine, runner = make_engine()
    engine.add(request("a", PROMPT))
    run_to_end(engine)
    first = len(runner.plans)
    engine.add(request("b", PROMPT))

    outputs = run_to_end(engine)["b"]

    assert runner.plans[first].num_tokens == 2  # 10 tokens less two full blocks of four
    assert generated(outputs) == expected_tokens(PROMPT, 4)
    assert outputs[-1].timings is not None
    assert outputs[-1].timings.cached_tokens == 8


def test_a_fully_cached_prompt_still_computes_its_last_token() -> None:
    engine, runner = make_engine()
    engine.add(request("a", PROMPT[:8]))
    run_to_end(engine)
    first = len(runner.plans)
    engine.add(request("b", PROMPT[:8]))

    outputs = run_to_end(engine)["b"]

    assert runner.plans[first].num_tokens == 4
    assert generated(outputs) == expected_tokens(PROMPT[:8], 4)


def test_without_a_prefix_cache_every_prompt_is_computed_in_full() -> None:
    engine, runner = make_engine(prefix_caching=False)
    engine.add(request("a", PROMPT))
    run_to_end(engine)
    first = len(runner.plans)
    engine.add(request("b", PROMPT))
    run_to_end(engine)

    assert runner.plans[first].num_tokens == len(PROMPT)


def test_a_prefix_computed_under_one_adapter_is_never_used_under_another() -> None:
    engine, runner = make_engine(adapters={"x": 4, "y": 8})
    for name, adapter in (("base", None), ("x", "x"), ("y", "y")):
        engine.add(request(name, PROMPT, adapter=adapter))
        run_to_end(engine)

    assert engine.scheduler.counters.prefix_cache_hits == 0
    engine.add(request("x again", PROMPT, adapter="x"))
    outputs = run_to_end(engine)["x again"]
    assert engine.scheduler.counters.prefix_cache_hits == 8
    assert generated(outputs) == expected_tokens(PROMPT, 4, adapter=0)
    assert len(runner.plans) > 0


def test_rows_of_several_adapters_and_of_none_share_a_step() -> None:
    engine, runner = make_engine(adapters={"x": 4, "y": 8}, max_num_batched_tokens=64)
    engine.add(request("y", PROMPT, adapter="y"))
    engine.add(request("base", PROMPT))
    engine.add(request("x", PROMPT, adapter="x"))
    engine.add(request("y2", PROMPT[:5], adapter="y"))

    outputs = run_to_end(engine)

    segments = runner.plans[0].segments
    assert segments.slots_G.tolist() == [0, 1], "in the order in which they were first wanted"
    assert segments.starts_G1.tolist() == [0, 15, 25]
    assert generated(outputs["x"]) == expected_tokens(PROMPT, 4, adapter=0)
    assert generated(outputs["y"]) == expected_tokens(PROMPT, 4, adapter=1)
    assert generated(outputs["base"]) == expected_tokens(PROMPT, 4)
    assert engine.residency.num_pins == 0


def test_preempted_sequences_come_back_with_the_same_tokens() -> None:
    engine, _ = make_engine(num_blocks=8, max_model_len=32, max_num_seqs=4)
    for index in range(4):
        engine.add(request(str(index), [index + 1, 2, 3], max_tokens=20))

    outputs = run_to_end(engine)

    assert engine.scheduler.counters.num_preemptions > 0
    for index in range(4):
        assert generated(outputs[str(index)]) == expected_tokens([index + 1, 2, 3], 20)
    assert engine.scheduler.pool.num_used == 0


def test_adapters_that_take_turns_on_the_device_leave_every_request_its_own_tokens() -> None:
    engine, _ = make_engine(
        num_blocks=128, max_model_len=200, adapters={"x": 1, "y": 1, "z": 1}, adapter_budget=1
    )
    for adapter in "xyz":
        for copy in range(2):
            prompt = [copy, *PROMPT]
            name = f"{adapter}{copy}"
            engine.add(request(name, prompt, adapter=adapter, max_tokens=100))

    outputs = run_to_end(engine)

    assert engine.scheduler.counters.num_preemptions >= 6
    for number, adapter in enumerate("xyz"):
        for copy in range(2):
            expected = expected_tokens([copy, *PROMPT], 100, adapter=number)
            assert generated(outputs[f"{adapter}{copy}"]) == expected


def test_the_oldest_sequence_is_never_preempted() -> None:
    engine, _ = make_engine(num_blocks=8, max_model_len=32, max_num_seqs=4)
    for index in range(4):
        engine.add(request(str(index), [index + 1, 2, 3], max_tokens=20))
    oldest = next(iter(engine.sequences()))

    outputs = run_to_end(engine)

    assert oldest.num_preemptions == 0
    finished = outputs["0"][-1].timings
    assert finished is not None
    assert finished.preemptions == 0


def test_an_end_of_sequence_token_ends_the_sequence() -> None:
    runner = FakeRunner(num_blocks=32, block_size=4, choose=lambda tokens, _: EOS)
    engine, _ = make_engine(runner=runner)
    engine.add(request("a", PROMPT, max_tokens=9, ignore_eos=False))

    outputs = run_to_end(engine)["a"]

    assert generated(outputs) == [EOS]
    assert outputs[-1].finish_reason is FinishReason.EOS


def test_ignored_end_of_sequence_tokens_do_not_end_it() -> None:
    runner = FakeRunner(num_blocks=32, block_size=4, choose=lambda tokens, _: EOS)
    engine, _ = make_engine(runner=runner)
    engine.add(request("a", PROMPT, max_tokens=3, ignore_eos=True))

    outputs = run_to_end(engine)["a"]

    assert generated(outputs) == [EOS] * 3
    assert outputs[-1].finish_reason is FinishReason.LENGTH


def test_a_stop_token_ends_the_sequence_and_is_named() -> None:
    runner = FakeRunner(num_blocks=32, block_size=4, choose=lambda tokens, _: 42)
    engine, _ = make_engine(runner=runner)
    engine.add(request("a", PROMPT, max_tokens=9, stop_token_ids=(41, 42)))

    outputs = run_to_end(engine)["a"]

    assert outputs[-1].finish_reason is FinishReason.STOP_TOKEN
    assert outputs[-1].stop_token_id == 42


def test_before_min_tokens_every_way_to_end_is_forbidden_in_the_plan() -> None:
    engine, runner = make_engine()
    engine.add(
        request("a", PROMPT, max_tokens=3, min_tokens=2, ignore_eos=False, stop_token_ids=(9,))
    )
    run_to_end(engine)

    biases = [plan.logits.bias_ids.tolist() for plan in runner.plans]
    assert biases == [[EOS, 9], [EOS, 9], []]


def test_prompt_logprobs_come_with_the_first_token_whatever_the_chunks() -> None:
    engine, _ = make_engine(max_num_batched_tokens=8)
    engine.add(request("a", PROMPT, num_prompt_logprobs=0))

    outputs = run_to_end(engine)["a"]

    prompt_logprobs = outputs[0].prompt_logprobs
    assert prompt_logprobs is not None
    assert [entry.token_id for entry in prompt_logprobs] == PROMPT
    assert prompt_logprobs[0].logprob is None
    assert all(entry.logprob is not None for entry in prompt_logprobs[1:])


def test_an_aborted_sequence_gives_back_blocks_and_pin() -> None:
    engine, _ = make_engine(adapters={"x": 4})
    engine.add(request("a", PROMPT, adapter="x", max_tokens=20))
    engine.step()
    assert engine.scheduler.pool.num_used > 0

    output = engine.abort("a")

    assert output is not None
    assert output.finish_reason is FinishReason.ABORT
    assert engine.scheduler.pool.num_used == 0
    assert engine.residency.num_pins == 0
    assert engine.abort("a") is None
    engine.check_integrity()


def test_a_waiting_sequence_can_be_aborted() -> None:
    engine, _ = make_engine(max_num_seqs=1)
    engine.add(request("a", PROMPT, max_tokens=20))
    engine.add(request("b", PROMPT, max_tokens=20))
    engine.step()

    engine.abort("b")

    outputs = run_to_end(engine)
    assert "b" not in outputs
    assert len(generated(outputs["a"])) == 19


def test_a_corrupt_row_fails_alone_and_its_blocks_are_not_remembered() -> None:
    runner = FakeRunner(num_blocks=32, block_size=4, corrupt=666)
    engine, _ = make_engine(runner=runner, max_num_batched_tokens=64)
    bad = [666, *PROMPT]
    engine.add(request("bad", bad))
    engine.add(request("good", PROMPT))

    outputs = run_to_end(engine)

    assert outputs["bad"][-1].finish_reason is FinishReason.ERROR
    assert generated(outputs["good"]) == expected_tokens(PROMPT, 4)
    assert engine.corrupted_requests == 1
    engine.add(request("bad again", bad))
    run_to_end(engine)
    assert engine.scheduler.counters.prefix_cache_hits == 0


def test_a_failing_step_ends_its_own_sequences_and_the_engine_goes_on() -> None:
    runner = FakeRunner(num_blocks=32, block_size=4, fail_at=frozenset({2}))
    engine, _ = make_engine(runner=runner)
    engine.add(request("a", PROMPT))
    engine.step()

    with pytest.raises(StepFailed) as failure:
        engine.step()

    assert [o.finish_reason for o in failure.value.outputs] == [FinishReason.ERROR]
    engine.check_integrity()
    engine.add(request("b", PROMPT))
    assert generated(run_to_end(engine)["b"]) == expected_tokens(PROMPT, 4)


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_arrivals_gives_every_request_its_own_tokens(seed: int) -> None:
    """Random prompts with shared prefixes, adapters, aborts and a cache too small for all."""
    rng = random.Random(seed)
    engine, _ = make_engine(
        num_blocks=20,
        max_num_seqs=6,
        max_num_batched_tokens=rng.choice([6, 9, 32]),
        max_model_len=40,
        prefix_caching=rng.random() < 0.8,
        adapters={"x": 4, "y": 8},
    )
    numbers = {None: -1, "x": 0, "y": 1}
    prefixes = [[rng.randrange(900) for _ in range(12)] for _ in range(3)]
    wanted: dict[str, list[int]] = {}
    got: dict[str, list[int]] = {}
    aborted = set()
    for step in range(400):
        if step < 250 and rng.random() < 0.25:
            name = f"r{step}"
            prompt = rng.choice(prefixes)[: rng.randint(1, 12)]
            prompt = prompt + [rng.randrange(900) for _ in range(rng.randint(0, 6))]
            adapter = rng.choice([None, "x", "y"])
            num_tokens = rng.randint(1, 20)
            wanted[name] = expected_tokens(prompt, num_tokens, adapter=numbers[adapter])
            got[name] = []
            engine.add(request(name, prompt, adapter=adapter, max_tokens=num_tokens))
        if engine.has_work and rng.random() < 0.05:
            name = rng.choice([s.request.request_id for s in engine.sequences()])
            engine.abort(name)
            aborted.add(name)
        for output in engine.step():
            got[output.request_id] += output.token_ids
        engine.check_integrity()
    for name, outputs in run_to_end(engine).items():
        got[name] += generated(outputs)

    for name, tokens in wanted.items():
        if name not in aborted:
            assert got[name] == tokens
    assert len(wanted) > 30
    assert engine.scheduler.pool.num_used == 0
    assert engine.residency.num_pins == 0
