"""Thousands of calls while a third of what the server does goes wrong: nothing is run twice or lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

import lorry
from lorry.retry import BUDGET_WINDOW_S
from tests.support.fake_llm_server import FakeLLMServer
from tests.support.ledger_server import LedgerServer, text_of

NUM_CALLS = {True: 2000, False: 5000}  # at a server that heeds keys, and at one that does not
NUM_AT_ONCE = 64
SHARE_OF_FAULTS = 0.3
EXPECTED_ERRORS = {
    lorry.ConnectionLost,
    lorry.StreamTruncated,
    lorry.Overloaded,
    lorry.HTTPStatusError,
    lorry.RetriesExhausted,
}


async def call_all(
    client: lorry.AsyncClient, num_calls: int
) -> dict[str, lorry.Generation | lorry.ClientError]:
    """Every call's outcome by its id; every other call is streamed."""
    outcomes: dict[str, lorry.Generation | lorry.ClientError] = {}
    numbers = iter(range(num_calls))

    async def work() -> None:
        for number in numbers:
            key = f"call-{number}"
            assert key not in outcomes
            try:
                if number % 2:
                    outcomes[key] = await client.generate("Hi", request_id=key)
                else:
                    outcomes[key] = await client.stream("Hi", request_id=key).final()
            except lorry.ClientError as error:
                outcomes[key] = error

    async with asyncio.TaskGroup() as workers:
        for _ in range(NUM_AT_ONCE):
            workers.create_task(work())
    return outcomes


@pytest.mark.parametrize("heeds_keys", [True, False], ids=["heeds keys", "heeds no keys"])
async def test_nothing_is_run_twice_and_every_call_has_one_outcome(heeds_keys: bool) -> None:
    num_calls = NUM_CALLS[heeds_keys]
    ledger = LedgerServer(seed=7, share=SHARE_OF_FAULTS, heeds_keys=heeds_keys)
    budget = lorry.RetryBudget(ratio=0.05, min_per_s=1.0)  # less than the faults ask for
    policy = lorry.RetryPolicy(max_attempts=3, base_s=0.001, cap_s=0.004, budget=budget)
    started = time.monotonic()
    async with (
        FakeLLMServer(ledger) as server,
        lorry.AsyncClient(server.url, retry=policy) as client,
    ):
        outcomes = await call_all(client, num_calls)
        stats = client._session.balancer.stats()[0]
    took_s = time.monotonic() - started

    entries = ledger.entries
    assert len(outcomes) == num_calls
    assert entries.keys() == outcomes.keys()
    assert stats.num_in_flight == 0

    # at most one execution, and no copy of a request whose answer had begun
    assert max(entry.num_executions for entry in entries.values()) == 1
    assert sum(entry.num_arrivals_after_first_byte for entry in entries.values()) == 0

    # the budget was kept, and it was needed
    num_retries = sum(entry.num_arrivals for entry in entries.values()) - num_calls
    assert num_retries == stats.num_retries
    assert (
        0 < num_retries <= budget.ratio * num_calls + budget.min_per_s * (took_s + BUDGET_WINDOW_S)
    )
    assert stats.num_retries_refused > 0
    copies_that_joined = sum(
        entry.num_joined for entry in entries.values() if entry.fault != "delivered twice"
    )
    assert (copies_that_joined > 0) is heeds_keys

    # what was sent whole was received whole, and nothing else passes for it
    for key, outcome in outcomes.items():
        entry = entries[key]
        if isinstance(outcome, lorry.Generation):
            assert outcome.text == text_of(key)
            assert outcome.attempts == entry.num_arrivals
        else:
            assert type(outcome) in EXPECTED_ERRORS
            assert outcome.request_id == key
            assert outcome.attempts == entry.num_arrivals
        assert isinstance(outcome, lorry.Generation) is entry.is_sent_whole
    kinds = Counter(type(outcome) for outcome in outcomes.values())
    assert kinds[lorry.Generation] > 0.7 * num_calls
    assert kinds[lorry.StreamTruncated] > 0
