"""Token counters between flows: shares, weights, credit, debts and age. Steps compute nothing."""

from __future__ import annotations

import random

import pytest

from lorry_server.engine.fairness import (
    MAX_DEBTORS,
    OUTPUT_TOKEN_COST,
    PROMPT_TOKEN_COST,
    FairByAdapter,
    Fifo,
    make_policy,
)
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.engine.sequence import Flow, Sequence
from tests.support.scheduled import ScheduledServer

NUM_BLOCKS, BLOCK_SIZE = 64, 4
NEVER = 10**9  # tokens


def fair(ageing_tokens: int = NEVER) -> FairByAdapter:
    return FairByAdapter(ageing_tokens=ageing_tokens)


def service_at_once(prompt: int) -> float:
    """The most that one flow can have in the batch at once: U of the paper's lemma 4.3."""
    return max(PROMPT_TOKEN_COST * prompt, OUTPUT_TOKEN_COST * NUM_BLOCKS * BLOCK_SIZE)


def keep_busy(server: ScheduledServer, flow: Flow, *, prompt: int, outputs: int) -> None:
    """Have more requests of `flow` wait than a step can admit."""
    while sum(sequence.flow == flow for sequence in server.scheduler.waiting) < 5:
        server.add(flow, prompt=prompt, outputs=outputs)


def gap_after(server: ScheduledServer, num_steps: int) -> float:
    """The greatest difference in service between a flow of long and one of short requests."""
    greatest = 0.0
    for _ in range(num_steps):
        keep_busy(server, "long", prompt=20, outputs=60)
        keep_busy(server, "short", prompt=8, outputs=2)
        server.step()
        greatest = max(greatest, abs(server.served["long"] - server.served["short"]))
    return greatest


def test_two_flows_that_always_want_more_differ_by_a_constant_however_unlike_they_are() -> None:
    bound = 2 * service_at_once(prompt=20)

    assert gap_after(ScheduledServer(fair()), 1500) <= bound
    assert gap_after(ScheduledServer(Fifo()), 1500) > 2 * bound


def test_a_flow_of_weight_three_gets_three_times_as_much() -> None:
    server = ScheduledServer(fair())
    server.scheduler.set_weight("short", 3.0)
    gap_after(server, 1500)

    assert server.served["short"] / server.served["long"] == pytest.approx(3.0, rel=0.05)

    server.scheduler.set_weight("short", 1.0)
    before = dict(server.served)
    gap_after(server, 1500)
    shares = server.served_since(before)

    assert shares["short"] / shares["long"] == pytest.approx(1.0, rel=0.05)


def test_the_base_model_is_a_flow_like_any_other() -> None:
    server = ScheduledServer(fair())
    server.scheduler.set_weight(None, 2.0)
    for _ in range(3000):
        keep_busy(server, None, prompt=10, outputs=10)
        keep_busy(server, "x", prompt=4, outputs=30)
        server.step()

    assert server.served[None] / server.served["x"] == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("flow", [None, "x"])
@pytest.mark.parametrize("seed", range(4))
def test_a_single_flow_is_served_in_order_of_arrival_step_by_step(seed: int, flow: Flow) -> None:
    """With preemptions, prefixes in common, aborts and blocks that run out."""

    def steps(scheduling: str) -> list[list[tuple[int, int]]]:
        rng = random.Random(seed)
        policy = make_policy(scheduling, full_step=16)
        server = ScheduledServer(policy, num_blocks=20, max_num_seqs=6)
        done = []
        for _ in range(600):
            if rng.random() < 0.2:
                first_id = rng.choice([None, 1, 1000])
                prompt, outputs = rng.randint(1, 40), rng.randint(1, 40)
                server.add(flow, prompt=prompt, outputs=outputs, first_id=first_id)
            if rng.random() < 0.02 and server.has_work:
                everyone = [*server.scheduler.waiting, *server.scheduler.running]
                server.abort(rng.choice(everyone))
            done.append(server.step())
        assert server.scheduler.counters.num_preemptions > 0
        assert server.scheduler.counters.prefix_cache_hits > 0
        return done

    assert steps("fair") == steps("fifo")


def test_one_request_beside_a_hundred_of_another_adapter_is_admitted_next() -> None:
    server = ScheduledServer(fair())
    for _ in range(100):
        server.add("noisy", prompt=8, outputs=8)
    server.run(5)
    num_admitted = len(server.admitted)
    server.add("quiet")
    while len(server.admitted) == num_admitted:
        server.step()

    assert server.admitted[num_admitted].flow == "quiet"


def test_time_without_requests_saves_up_no_credit() -> None:
    server = ScheduledServer(fair())
    server.add("idle")
    for _ in range(2000):
        keep_busy(server, "busy", prompt=8, outputs=8)
        server.step()
    before = dict(server.served)
    greatest = 0.0
    for _ in range(500):
        keep_busy(server, "busy", prompt=8, outputs=8)
        keep_busy(server, "idle", prompt=8, outputs=8)
        server.step()
        since = server.served_since(before)
        greatest = max(greatest, since["idle"] - since["busy"])

    assert greatest <= 2 * service_at_once(prompt=8)
    assert greatest < before["busy"] / 10


def test_what_a_flow_had_too_much_it_still_owes_when_it_comes_back() -> None:
    """Long requests of one flow, one at a time, beside short ones: each ends before the next."""
    server = ScheduledServer(fair(), max_num_seqs=1)
    server.add("short", outputs=4)
    server.add("short", outputs=4)
    for _ in range(4000):
        for flow, num_outputs, num_requests in (("long", 60, 1), ("short", 4, 2)):
            present = [*server.scheduler.waiting, *server.scheduler.running]
            if sum(sequence.flow == flow for sequence in present) < num_requests:
                server.add(flow, outputs=num_outputs)
        server.step()

    assert server.served["long"] / server.served["short"] == pytest.approx(1.0, rel=0.1)


def test_a_prompt_that_the_prefix_cache_had_is_free() -> None:
    policy = fair()
    server = ScheduledServer(policy)
    paid = []
    for _ in range(2):
        server.add("x", prompt=16, outputs=2, first_id=1)
        server.run_to_end()
        paid.append(policy.service("x"))

    assert paid[0] == 16 * PROMPT_TOKEN_COST + OUTPUT_TOKEN_COST
    assert paid[1] - paid[0] == 4 * PROMPT_TOKEN_COST + OUTPUT_TOKEN_COST


def test_what_is_computed_again_after_a_preemption_is_paid_for_once() -> None:
    policy = fair()
    server = ScheduledServer(policy, num_blocks=16, max_num_seqs=4)
    for flow in ("x", "y", "z"):
        server.add(flow, prompt=20, outputs=30)
    watcher = server.add("w", prompt=1, outputs=40)
    while server.has_work:
        paid = {flow: policy.service(flow) for flow in "xyzw"}
        server.step()
        assert all(policy.service(f) >= paid[f] for f in "xyzw" if f in policy.flows)

    assert server.scheduler.counters.num_preemptions > 0
    assert watcher.num_paid_tokens == 40, "the last token is never computed"
    assert server.served["x"] == PROMPT_TOKEN_COST * 20 + OUTPUT_TOKEN_COST * 29


def fresh_flows_until_admitted(policy: FairByAdapter) -> int | None:
    """How many tokens a flow with a debt waits while new flows arrive faster than they are served."""
    server = ScheduledServer(policy, max_num_seqs=2)
    for _ in range(6):
        server.add("owing", prompt=8, outputs=40)
    for number in range(600):
        server.add(f"fresh {number}", prompt=8, outputs=2)
        server.step()
        waits = [server.now - server.arrived_at[s.order] for s in server.admitted[2:]]
        if any(sequence.flow == "owing" for sequence in server.admitted[2:]):
            return waits[-1]
    return None


def test_one_that_waits_for_long_goes_first_in_the_end_whoever_else_arrives() -> None:
    assert fresh_flows_until_admitted(fair()) is None
    waited = fresh_flows_until_admitted(fair(ageing_tokens=200))

    assert waited is not None
    assert 200 <= waited <= 200 + 2 * 48 + 16, "or until a seat was free"


def test_age_counts_once_in_a_while_so_that_a_backlog_takes_no_share() -> None:
    """A backlog grows old in any case; if age went first each time, a newcomer would wait for it."""
    policy = fair(ageing_tokens=400)
    server = ScheduledServer(policy)
    for _ in range(400):
        server.add("backlog", prompt=8, outputs=8)
    server.run(100)
    before = dict(server.served)
    for _ in range(600):
        keep_busy(server, "new", prompt=8, outputs=8)
        server.step()
    shares = server.served_since(before)

    assert shares["new"] / shares["backlog"] > 0.8


def test_flows_that_are_gone_leave_next_to_nothing_behind() -> None:
    policy = fair()
    server = ScheduledServer(policy, max_num_seqs=8)
    for number in range(1000):
        server.add(f"adapter {number}", prompt=4, outputs=1 + number % 7)
        server.step()
        accepted = {s.flow for s in (*server.scheduler.waiting, *server.scheduler.running)}
        assert set(policy.flows) <= accepted
        assert policy.num_debtors <= MAX_DEBTORS
    server.run_to_end()

    assert not policy.flows


def test_more_debtors_than_are_remembered_are_let_off_the_longest_gone_first() -> None:
    policy = fair()
    policy.arrive("stuck")
    for number in range(MAX_DEBTORS + 10):
        flow = f"greedy {number}"
        request = Request(flow, (1, 2, 3), SamplingParams(max_tokens=1), adapter=flow)
        policy.arrive(flow)
        policy.settle([], ["stuck", flow])
        policy.admit(Sequence(request, order=number, block_size=4), num_tokens=3, now=0)
        policy.forget(flow)

    assert policy.num_debtors == MAX_DEBTORS
    assert policy.service("greedy 0") == 0.0
    assert policy.service(f"greedy {MAX_DEBTORS}") > 0.0


def test_an_abort_before_the_first_step_leaves_no_account() -> None:
    policy = fair()
    server = ScheduledServer(policy)
    server.abort(server.add("x"))

    assert not policy.flows
    server.add("y")
    server.run_to_end()
    assert not policy.flows
