"""`GET /v1/steps`: the step log over HTTP."""

from __future__ import annotations

import time

import pytest

from lorry_server.engine.step_log import StepEntry
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import fake_app, in_process


def entry(index: int) -> StepEntry:
    return StepEntry(
        index,
        start_s=100.0 + index,
        end_s=100.0 + index + 0.0125,
        num_sequences=3,
        num_prefill_tokens=30,
        num_decode_tokens=2,
        num_adapters=2,
        num_running=3,
        num_waiting=7,
        num_used_blocks=9,
        num_preemptions=1,
        num_attaches=2,
    )


def engine_after(num_steps: int) -> FakeEngine:
    """Four of its steps are kept."""
    engine = FakeEngine()
    for index in range(num_steps):
        engine.step_log.append(entry(index))
    return engine


async def get(engine: FakeEngine, query: str = "") -> tuple[int, dict]:
    async with in_process(fake_app(engine)) as client:
        response = await client.get(f"/v1/steps{query}")
    return response.status_code, response.json()


async def test_a_step_is_shown_whole():
    before = time.time() - time.perf_counter()

    _, answer = await get(engine_after(1))

    (step,) = answer["steps"]
    wall_ms = step.pop("start_ms")
    assert step == {
        "index": 0,
        "start_ns": 100_000_000_000,
        "step_ms": 12.5,
        "batch": 3,
        "prefill_tokens": 30,
        "decode_tokens": 2,
        "adapters": 2,
        "running": 3,
        "waiting": 7,
        "kv_blocks_used": 9,
        "preemptions": 1,
        "adapter_attaches": 2,
    }
    assert wall_ms == pytest.approx((before + 100.0) * 1e3, abs=10_000)
    assert (answer["next"], answer["missed"], answer["kv_blocks_total"]) == (1, 0, 64)


@pytest.mark.parametrize(
    ("query", "indices", "following", "missed"),
    [
        ("", [6, 7, 8, 9], 10, 0),
        ("?limit=2", [8, 9], 10, 0),
        ("?since=7", [7, 8, 9], 10, 0),
        ("?since=7&limit=2", [7, 8], 9, 0),
        ("?since=2", [6, 7, 8, 9], 10, 4),
        ("?since=10", [], 10, 0),
        ("?since=500", [], 10, 0),  # of a server that has been started again
    ],
)
async def test_a_poller_gets_what_it_has_not_seen_and_learns_what_it_missed(
    query, indices, following, missed
):
    status, answer = await get(engine_after(10), query)

    assert status == 200
    assert [step["index"] for step in answer["steps"]] == indices
    assert (answer["next"], answer["missed"]) == (following, missed)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?since=-1", "since"),
        ("?since=x", "since"),
        ("?since=", "since"),
        ("?since=9999999999999999999", "since"),
        ("?since=1&since=2", "since"),
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=1.5", "limit"),
        ("?limit=%D9%A3", "limit"),
        ("?last=5", "last"),
    ],
)
async def test_a_wrong_query_is_refused_by_name(query, param):
    status, answer = await get(engine_after(3), query)

    assert status == 400
    assert answer["error"]["param"] == param


async def test_it_needs_a_key_where_there_are_keys():
    async with in_process(fake_app(FakeEngine(), api_keys=("secret",))) as client:
        assert (await client.get("/v1/steps")).status_code == 401
