"""Sequences that take turns on the device's memory for adapters."""

from __future__ import annotations

import random

import pytest

from lorry_server.engine.outputs import FinishReason
from tests.support.engines import expected_tokens, generated, make_engine, request, run_to_end
from tests.support.fake_adapters import fake_prepared

PROMPT = [11, 12, 13, 14, 15]
NUMBERS = {None: -1, "x": 0, "y": 1, "z": 2}


def test_only_running_sequences_pin_their_adapter() -> None:
    engine, _ = make_engine(adapters={"x": 1, "y": 1}, max_num_seqs=1)
    engine.add(request("a", PROMPT, adapter="x", max_tokens=20))
    engine.add(request("b", PROMPT, adapter="y", max_tokens=20))
    assert engine.residency.num_pins == 0

    engine.step()

    assert engine.residency.num_pins == 1
    assert engine.residency.is_resident("x")
    assert not engine.residency.is_resident("y")


def test_a_sequence_waits_for_room_while_others_pass_it() -> None:
    engine, _ = make_engine(adapters={"x": 6, "y": 6}, adapter_budget=6)
    engine.add(request("x", PROMPT, adapter="x", max_tokens=6))
    engine.add(request("y", PROMPT, adapter="y", max_tokens=6))
    engine.add(request("base", PROMPT, max_tokens=2))
    engine.add(request("x2", PROMPT, adapter="x", max_tokens=3))

    order = []
    outputs: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason:
                order.append(output.request_id)
        engine.check_integrity()

    assert order == ["base", "x2", "x", "y"]
    assert outputs["y"] == expected_tokens(PROMPT, 6, adapter=1)
    assert outputs["x2"] == expected_tokens(PROMPT, 3, adapter=0)
    assert engine.residency.counters.evictions == 1


def test_a_preempted_sequence_gives_its_pin_back_and_its_adapter_may_leave() -> None:
    engine, _ = make_engine(
        num_blocks=8, max_model_len=32, max_num_seqs=4, adapters={"x": 1, "y": 1, "z": 1}
    )
    for index, adapter in enumerate(["x", "y", "z", "x"]):
        engine.add(request(str(index), [index + 1, 2, 3], adapter=adapter, max_tokens=20))

    outputs = run_to_end(engine)

    assert engine.scheduler.counters.num_preemptions > 0
    for index in range(4):
        assert generated(outputs[str(index)]) == expected_tokens(
            [index + 1, 2, 3], 20, adapter=index % 3
        )
    assert engine.residency.num_pins == 0


def test_a_request_for_an_adapter_that_was_never_offered_ends_with_an_error() -> None:
    engine, _ = make_engine()

    output = engine.add(request("a", PROMPT, adapter="nobody"))

    assert output is not None
    assert output.finish_reason is FinishReason.ERROR
    assert output.error == "this request's adapter is not loaded"
    assert not engine.has_work
    engine.check_integrity()


def test_what_was_accepted_ends_on_an_adapter_that_was_withdrawn_meanwhile() -> None:
    engine, runner = make_engine(adapters={"x": 1}, max_num_seqs=1)
    engine.add(request("running", PROMPT, adapter="x"))
    engine.add(request("waiting", PROMPT, adapter="x"))
    engine.step()

    engine.withdraw_adapter("x")
    engine.check_integrity()
    outputs = run_to_end(engine)

    assert generated(outputs["waiting"]) == expected_tokens(PROMPT, 4, adapter=0)
    assert not engine.residency.is_known("x")
    assert runner.adapters.attached == {}


def test_an_adapter_that_is_offered_again_before_it_left_stays() -> None:
    engine, _ = make_engine(adapters={"x": 1})
    engine.add(request("a", PROMPT, adapter="x"))
    engine.withdraw_adapter("x")

    engine.offer_adapter(fake_prepared("x"))
    run_to_end(engine)

    assert engine.residency.is_known("x")
    engine.withdraw_adapter("x")
    assert not engine.residency.is_known("x")


@pytest.mark.parametrize("seed", range(4))
def test_adapters_that_come_and_go_give_every_request_its_own_tokens(seed: int) -> None:
    """Room for y, or for both others; withdrawn, offered again, and waited for."""
    rng = random.Random(seed)
    engine, _ = make_engine(
        num_blocks=20,
        max_num_seqs=6,
        max_num_batched_tokens=rng.choice([6, 32]),
        max_model_len=40,
        adapters={"x": 4, "y": 8, "z": 3},
        adapter_budget=8,
    )
    sizes = {"x": 4, "y": 8, "z": 3}
    offered = set(sizes)
    wanted: dict[str, list[int]] = {}
    got: dict[str, list[int]] = {}
    for step in range(300):
        digest = rng.choice(sorted(sizes))
        if digest not in offered:
            number = NUMBERS[digest]
            engine.offer_adapter(fake_prepared(digest, num_bytes=sizes[digest], number=number))
            offered.add(digest)
        elif rng.random() < 0.1:
            engine.withdraw_adapter(digest)
            offered.remove(digest)
        if step < 200 and rng.random() < 0.4:
            adapter = rng.choice([None, *sorted(offered)])
            prompt = [rng.randrange(900) for _ in range(rng.randint(1, 12))]
            num_tokens = rng.randint(1, 12)
            wanted[f"r{step}"] = expected_tokens(prompt, num_tokens, adapter=NUMBERS[adapter])
            got[f"r{step}"] = []
            refused = engine.add(
                request(f"r{step}", prompt, adapter=adapter, max_tokens=num_tokens)
            )
            assert refused is None
        for output in engine.step():
            got[output.request_id] += output.token_ids
        engine.check_integrity()
    for name, outputs in run_to_end(engine).items():
        got[name] += generated(outputs)

    assert got == wanted
    assert len(wanted) > 40
    assert engine.residency.counters.evictions > 5
