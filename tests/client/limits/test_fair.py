"""Deficit round robin between adapters: shares of the cost, and nobody starves."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import lorry
from lorry.limits.lanes import DeficitRoundRobin, Lane, Ticket

NOTHING = lorry.Timing(created_ns=0, intended_ns=0)


class Backlog:
    """Adapters that always have one more waiting, of the cost that is theirs."""

    def __init__(self, **costs: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._turns = DeficitRoundRobin()
        self._lanes = {name: Lane(name, None) for name in costs}
        self._costs = costs

    def served(self, num_turns: int, *, depth: int) -> list[str]:
        """Whose turns they were, with `depth` waiting in every lane all the time."""
        for name in self._costs:
            for _ in range(depth):
                self._add(name)
        order = []
        for _ in range(num_turns):
            ticket = self._turns.take()
            assert ticket is not None
            assert ticket.lane.adapter is not None
            order.append(ticket.lane.adapter)
            self._add(ticket.lane.adapter)
        self._loop.close()
        return order

    def _add(self, name: str) -> None:
        future = self._loop.create_future()
        self._turns.add(Ticket(self._lanes[name], self._costs[name], future))


def test_adapters_with_equal_calls_take_turns() -> None:
    order = Backlog(a=10, b=10, c=10).served(300, depth=3)

    assert Counter(order) == {"a": 100, "b": 100, "c": 100}


@pytest.mark.parametrize("depth", [1, 3])
def test_adapters_have_equal_shares_of_the_tokens_however_long_their_calls_are(depth: int) -> None:
    costs = {"short": 10, "middle": 40, "long": 200}
    order = Backlog(**costs).served(5_000, depth=depth)
    tokens = {name: calls * costs[name] for name, calls in Counter(order).items()}

    if depth == 1:
        # one that has nobody waiting when its turn ends saves no credit, so it has less: but it has
        assert min(Counter(order).values()) > 0
    else:
        assert max(tokens.values()) < 1.1 * min(tokens.values())


def test_the_only_adapter_that_waits_goes_whatever_its_calls_cost() -> None:
    assert Backlog(a=100_000).served(50, depth=2) == ["a"] * 50


async def test_a_crowd_of_one_adapter_does_not_hold_up_another() -> None:
    limit = lorry.Limit(1, fair=True)
    order: list[str] = []

    async def call(adapter: str) -> None:
        permit = await limit.acquire(adapter=adapter, num_tokens=10)
        order.append(adapter)
        await asyncio.sleep(0)
        permit.release(outcome=None, timing=NOTHING)

    crowd = [asyncio.create_task(call("crowd")) for _ in range(100)]
    await asyncio.sleep(0)
    one = asyncio.create_task(call("one"))
    await asyncio.gather(*crowd, one)

    assert order.index("one") <= 3


async def test_without_fairness_the_crowd_that_asked_first_goes_first() -> None:
    limit = lorry.Limit(1)
    order: list[str] = []

    async def call(adapter: str) -> None:
        permit = await limit.acquire(adapter=adapter, num_tokens=10)
        order.append(adapter)
        permit.release(outcome=None, timing=NOTHING)

    await asyncio.gather(*(call(adapter) for adapter in ["crowd"] * 20 + ["one"]))

    assert order[-1] == "one"
