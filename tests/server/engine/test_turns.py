"""More adapters than fit, blocks that run out: others go past, nobody is left behind for ever."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry_server.engine.fairness import SchedulingPolicy, make_policy
from lorry_server.engine.sequence import Flow, Sequence
from lorry_server.engine.turns import (
    DRAIN_STEPS,
    MAX_FAILED_TRIES,
    MIN_TURN_TOKENS,
    PATIENCE_STEPS,
    TENURE_STEPS,
)
from tests.support.scheduled import ScheduledServer

FULL_STEP = 16
PATIENCE, DRAIN = int(PATIENCE_STEPS * FULL_STEP), int(DRAIN_STEPS * FULL_STEP)
TENURE = TENURE_STEPS * FULL_STEP
SCHEDULINGS = ("fair", "fifo")


def policy(scheduling: str = "fair", *, full_step: int = FULL_STEP) -> SchedulingPolicy:
    return make_policy(scheduling, full_step=full_step)


def longest_turn(*, num_seqs: int, model_len: int) -> int:
    """How many tokens are served at most until the first claim of several is met.

    Until an adapter may be asked to make room, it drains, and each of its sequences has caught up
    and got on; until a seat and a whole step are free for the head; and the step at each border.
    """
    catch_up = num_seqs * (model_len + MIN_TURN_TOKENS)
    return PATIENCE + DRAIN + TENURE + 2 * catch_up + 4 * FULL_STEP


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_one_without_room_for_its_adapter_lets_all_others_pass(scheduling: str) -> None:
    server = ScheduledServer(policy(scheduling), room=1)
    server.add("in", outputs=12)
    server.step()
    server.add("out")
    server.add("in")
    server.add(None)
    server.step()

    assert [sequence.flow for sequence in server.scheduler.running] == ["in", "in", None]


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_one_whose_blocks_do_not_fit_lets_others_pass_but_not_for_ever(scheduling: str) -> None:
    server = ScheduledServer(
        policy(scheduling, full_step=64), num_blocks=33, max_num_seqs=12, max_num_batched_tokens=64
    )
    stream = server.add("stream", prompt=40, outputs=70)
    little: list[Sequence] = []

    def step() -> None:
        if sum(sequence.order not in server.finished_at for sequence in little) < 4:
            little.append(server.add(None, prompt=2, outputs=4 + len(little) % 3))
        server.step()

    for _ in range(8):
        step()
    large = server.add("large", prompt=80, outputs=2)
    passed_at = server.now
    while large.order not in server.admitted_at:
        step()
    past = [server.admitted_at[s.order] for s in server.admitted if s.flow is None]

    assert stream.order not in server.finished_at
    assert max(past) > passed_at, "others may pass"
    assert max(past) <= passed_at + PATIENCE_STEPS * 64 + 4


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_an_endless_stream_makes_room_for_an_adapter_that_has_waited_long_enough(
    scheduling: str,
) -> None:
    server = ScheduledServer(policy(scheduling), room=1, num_blocks=256)
    stream = server.add("in", outputs=900)
    server.run(TENURE)
    late = server.add("out", outputs=2)
    arrived = server.now
    server.run_to_end()

    waited = server.admitted_at[late.order] - arrived
    assert PATIENCE + DRAIN <= waited <= PATIENCE + DRAIN + 4
    assert stream.num_preemptions == 1
    assert stream.num_completion_tokens == 900
    assert server.now < 904 + 10, "the prefix cache brought it back"


def test_nobody_is_preempted_where_an_adapter_ends_by_itself_in_time() -> None:
    server = ScheduledServer(policy(), room=1, num_blocks=256)
    server.add("in", outputs=TENURE + PATIENCE + DRAIN // 2)
    server.run(TENURE)
    late = server.add("out", outputs=2)
    server.run_to_end()

    assert late.order in server.finished_at
    assert server.scheduler.counters.num_preemptions == 0


def test_an_adapter_that_is_to_make_room_takes_on_nobody_and_the_others_do() -> None:
    server = ScheduledServer(policy(), room=2, num_blocks=256, max_num_seqs=8)
    server.add("little", outputs=900)
    for _ in range(2):
        server.add("much", outputs=900)
    server.run(TENURE)
    server.add("out", outputs=2)
    server.run(PATIENCE // 3 + 2)
    drained = server.add("much", outputs=2)
    helped = server.add("little", outputs=2)
    server.step()

    assert helped.order in server.admitted_at
    assert drained.order not in server.admitted_at
    server.run_to_end()
    preempted = [s for s in server.admitted if s.num_preemptions > 0]
    assert {sequence.flow for sequence in preempted} == {"much"}


def test_an_adapter_that_just_got_in_keeps_its_place_for_a_while() -> None:
    """Two adapters, room for one, work without end: each turn has its length."""
    server = ScheduledServer(policy(), room=1, num_blocks=512)
    for flow in ("a", "b"):
        server.add(flow, outputs=900)
    turns: list[tuple[Flow, int]] = []
    for _ in range(1500):
        before = server.now
        server.step()
        served = server.scheduler.running[0].flow
        if not turns or turns[-1][0] != served:
            turns.append((served, before))

    lengths = [after - before for (_, before), (_, after) in pairwise(turns)]
    assert len(lengths) >= 4
    assert min(lengths) >= TENURE
    assert max(lengths) <= TENURE + DRAIN + PATIENCE + FULL_STEP


@pytest.mark.parametrize("scheduling", SCHEDULINGS)
def test_turns_that_are_shorter_than_computing_again_still_bring_everyone_further(
    scheduling: str,
) -> None:
    """Without a prefix cache each return costs more tokens than an adapter's time of grace."""
    prompt = 2 * TENURE
    server = ScheduledServer(policy(scheduling), room=1, num_blocks=256, prefix_caching=False)
    for flow in ("a", "b", "a", "b"):
        server.add(flow, prompt=prompt, outputs=100)
    server.run_to_end(max_steps=4000)

    for sequence in server.admitted:
        assert 1 < sequence.num_preemptions <= 100 // MIN_TURN_TOKENS + 1


def test_a_large_adapter_gets_the_room_of_several_small_ones() -> None:
    server = ScheduledServer(policy(), room=3, num_blocks=256, max_num_seqs=8)
    server.offer("large", num_bytes=3)
    for flow in ("a", "b", "c"):
        server.add(flow, outputs=600)
    server.run(TENURE)
    large = server.add("large", outputs=4)
    while large.order not in server.finished_at:
        server.step()
        assert server.now < 4 * longest_turn(num_seqs=8, model_len=604)
    server.run_to_end()

    assert len(server.finished_at) == 4


def test_a_claim_ends_with_the_request_that_waited() -> None:
    server = ScheduledServer(policy(), room=1, num_blocks=256)
    stream = server.add("in", outputs=800)
    server.run(TENURE)
    late = server.add("out")
    server.run(PATIENCE + DRAIN // 2)
    server.abort(late)
    server.run_to_end()

    assert stream.num_preemptions == 0


def test_requests_for_the_adapter_that_got_in_come_along() -> None:
    """While its tenure lasts, an adapter is used for all who want it, not for one at a time."""
    server = ScheduledServer(policy(), room=1, num_blocks=512, max_num_seqs=8)
    for flow in ("a", "b", "c"):
        for _ in range(4):
            server.add(flow, outputs=60)
    together = 0
    while server.has_work:
        server.step()
        together = max(together, len(server.scheduler.running))
        num_adapters = len({sequence.flow for sequence in server.scheduler.running})
        assert num_adapters <= 1

    assert together == 4
    assert server.num_steps < 3 * 80


def test_a_crowd_of_adapters_without_room_is_not_asked_for_in_every_step() -> None:
    server = ScheduledServer(policy(), room=1)
    asked: list[str] = []
    acquire = server.residency.acquire

    def count(digest: str) -> bool:
        asked.append(digest)
        return acquire(digest)

    server.residency.acquire = count  # type: ignore[method-assign] # to see what is asked
    server.add("in", outputs=200)
    server.step()
    for number in range(100):
        server.add(f"out {number}")
    asked.clear()
    server.step()
    assert len(asked) == MAX_FAILED_TRIES
    server.run(20)
    assert len(asked) <= 100
    assert len(set(asked)) == len(asked)


# -- progress, whatever arrives

Arrival = tuple[int, int, int, int]  # steps after the one before, adapter, prompt, outputs


def arrivals(num_adapters: int) -> st.SearchStrategy[list[Arrival]]:
    one = st.tuples(
        st.integers(0, 6),
        st.integers(-1, num_adapters - 1),  # -1: the base model
        st.integers(1, 30),
        st.integers(1, 30),
    )
    burst = st.tuples(st.just(0), st.integers(0, num_adapters - 1), st.just(6), st.integers(1, 9))
    return st.lists(one | burst, max_size=120)


def serve(server: ScheduledServer, wanted: list[Arrival], *, num_streams: int) -> int:
    """Let all of `wanted` arrive beside long streams; return how many there were."""
    for number in range(num_streams):
        server.add(f"stream {number}", prompt=4, outputs=200)
    for pause, adapter, prompt, outputs in wanted:
        server.run(pause if server.has_work else 0)
        server.add(None if adapter < 0 else f"{adapter}", prompt=prompt, outputs=outputs)
    server.run_to_end()
    return num_streams + len(wanted)


def assert_bounded(server: ScheduledServer, *, num_seqs: int, model_len: int) -> None:
    """Each was admitted within one turn for every request that was accepted beside it, and itself.

    A request ends within as many turns as it takes to compute it, `MIN_TURN_TOKENS` at a time, each
    after at most as long a wait.
    """
    turn = longest_turn(num_seqs=num_seqs, model_len=model_len)
    num_turns = -(-model_len // MIN_TURN_TOKENS)
    for order, arrived in server.arrived_at.items():
        finished = server.finished_at[order]
        beside = [
            other
            for other, other_arrived in server.arrived_at.items()
            if other_arrived <= finished and server.finished_at[other] >= arrived
        ]
        assert server.admitted_at[order] - arrived <= len(beside) * turn
        assert finished - arrived <= len(beside) * turn * num_turns


@settings(max_examples=40, deadline=None)
@given(
    wanted=arrivals(200),
    scheduling=st.sampled_from(SCHEDULINGS),
    num_blocks=st.sampled_from([52, 80, 400]),
    num_seqs=st.sampled_from([2, 5, 12]),
)
def test_everyone_ends_whoever_arrives_with_room_for_four_of_two_hundred_adapters(
    wanted: list[Arrival], scheduling: str, num_blocks: int, num_seqs: int
) -> None:
    server = ScheduledServer(
        policy(scheduling), num_blocks=num_blocks, max_num_seqs=num_seqs, room=4
    )

    num_wanted = serve(server, wanted, num_streams=4)

    assert len(server.finished_at) == num_wanted
    assert_bounded(server, num_seqs=num_seqs, model_len=204)


@settings(max_examples=30, deadline=None)
@given(wanted=arrivals(6), sizes=st.lists(st.integers(1, 6), min_size=6, max_size=6))
def test_everyone_ends_where_adapters_are_of_unlike_size(
    wanted: list[Arrival], sizes: list[int]
) -> None:
    server = ScheduledServer(policy(), num_blocks=80, max_num_seqs=6, room=7)
    for number, num_bytes in enumerate(sizes):
        server.offer(f"{number}", num_bytes=num_bytes)

    num_wanted = serve(server, wanted, num_streams=2)

    assert len(server.finished_at) == num_wanted
    assert_bounded(server, num_seqs=6, model_len=204)


@settings(max_examples=20, deadline=None)
@given(wanted=arrivals(8), scheduling=st.sampled_from(SCHEDULINGS))
def test_the_same_arrivals_give_the_same_steps(wanted: list[Arrival], scheduling: str) -> None:
    def steps() -> list[list[tuple[int, int]]]:
        server = ScheduledServer(policy(scheduling), num_blocks=40, max_num_seqs=5, room=3)
        done = []
        for pause, adapter, prompt, outputs in wanted:
            done += [server.step() for _ in range(pause) if server.has_work]
            server.add(None if adapter < 0 else f"{adapter}", prompt=prompt, outputs=outputs)
        while server.has_work:
            done.append(server.step())
        return done

    assert steps() == steps()


@settings(max_examples=30, deadline=None)
@given(
    wanted=arrivals(12),
    aborts=st.lists(st.integers(0, 30), max_size=60),
    scheduling=st.sampled_from(SCHEDULINGS),
)
def test_whoever_leaves_in_whatever_state_leaves_nothing_behind(
    wanted: list[Arrival], aborts: list[int], scheduling: str
) -> None:
    server = ScheduledServer(policy(scheduling), num_blocks=40, max_num_seqs=5, room=3)
    left = set()
    for (pause, adapter, prompt, outputs), abort in zip(wanted, aborts, strict=False):
        server.run(pause if server.has_work else 0)
        server.add(None if adapter < 0 else f"{adapter}", prompt=prompt, outputs=outputs)
        present = [*server.scheduler.running, *server.scheduler.waiting]
        if abort < len(present):
            server.abort(present[abort])
            left.add(present[abort].order)
    server.run_to_end()

    assert server.finished_at.keys() | left == server.arrived_at.keys()
    assert server.residency.num_pins == 0
    assert server.scheduler.pool.num_used == 0


# -- one adapter more than fits


def times_to_first_token(num_adapters: int, *, room: int, num_streams: int = 16) -> list[float]:
    """Milliseconds that requests waited, in order; as many streams as that without a pause.

    A step takes what one of the small default model takes on two cores.
    """
    rng = random.Random(1)
    server = ScheduledServer(
        policy(full_step=256),
        num_blocks=200,
        block_size=64,
        max_num_seqs=64,
        max_num_batched_tokens=256,
        room=room,
    )
    time_ms = 0.0
    arrived_ms: dict[int, float] = {}
    waited_ms: dict[int, float] = {}
    while len(waited_ms) < 300:
        while len(server.scheduler.waiting) + len(server.scheduler.running) < num_streams:
            adapter = f"{rng.randrange(num_adapters)}"
            prompt, outputs = rng.randint(64, 192), rng.randint(32, 96)
            arrived_ms[server.add(adapter, prompt=prompt, outputs=outputs).order] = time_ms
        time_ms += 6.0 + 0.43 * sum(num_tokens for _, num_tokens in server.step())
        for sequence in server.scheduler.running:
            if sequence.num_completion_tokens > 0:
                waited_ms.setdefault(sequence.order, time_ms - arrived_ms[sequence.order])
    return sorted(waited_ms.values())


@pytest.mark.parametrize("num_adapters", [9, 17])
def test_one_adapter_more_than_fits_does_not_double_the_wait_for_a_first_token(
    num_adapters: int,
) -> None:
    all_fit = times_to_first_token(num_adapters, room=num_adapters)
    one_out = times_to_first_token(num_adapters, room=num_adapters - 1)

    p95 = int(0.95 * len(all_fit))
    assert one_out[p95] <= 2 * all_fit[p95]
    assert one_out[-1] <= 2 * all_fit[-1], "nobody starves"
