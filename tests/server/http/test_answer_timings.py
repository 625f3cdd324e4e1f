"""The `timings` of an answer: a split of the server's time that leaves nothing over."""

from __future__ import annotations

import time

import pytest

from lorry_server.engine.outputs import SequenceTimings
from lorry_server.http.answer_timings import answer_timings
from lorry_server.http.request_record import RequestRecord
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import fake_app, ids, in_process


def sequence(**changes: object) -> SequenceTimings:
    values: dict[str, object] = {
        "queue_ms": 50.0,
        "prefill_ms": 20.0,
        "decode_ms": 30.0,
        "cached_tokens": 16,
        "steps": 3,
        "max_batch": 2,
        "preemptions": 1,
        "first_step": 10,
        "last_step": 14,
    }
    return SequenceTimings(**(values | changes))  # type: ignore[arg-type] # values of many types


def record_of_long_ago() -> RequestRecord:
    now = time.perf_counter()
    record = RequestRecord(request_id="r", arrival_s=now - 0.2)
    record.submitted_s = now - 0.2 + 0.030
    record.adapter_load_ms = 25.0
    return record


def test_the_parts_are_the_whole():
    timings = answer_timings([sequence()], record=record_of_long_ago(), adapter="sql")

    assert timings is not None
    assert timings.total_ms is not None
    assert timings.finish_ms is not None
    assert timings.total_ms >= 200
    parts = timings.queue_ms + timings.prefill_ms + timings.decode_ms + timings.finish_ms
    assert parts == pytest.approx(timings.total_ms, abs=0.01)
    assert timings.adapter_load_ms == 25.0
    assert timings.prepare_ms == pytest.approx(5.0, abs=0.01)
    assert (timings.request_id, timings.adapter) == ("r", "sql")


def test_of_several_sequences_the_slowest_is_reported_and_the_steps_of_all():
    sequences = [
        sequence(first_step=12, last_step=13),
        sequence(decode_ms=90.0, steps=9, first_step=11, last_step=20, max_batch=1),
        sequence(first_step=None, last_step=None, queue_ms=0.0),
    ]

    timings = answer_timings(sequences, record=record_of_long_ago(), adapter=None)

    assert timings is not None
    assert (timings.decode_ms, timings.steps) == (90.0, 9)
    assert (timings.first_step, timings.last_step) == (11, 20)
    assert (timings.cached_tokens, timings.preemptions, timings.max_batch) == (48, 3, 2)


def test_where_no_step_computed_anything_there_is_no_step():
    never = sequence(first_step=None, last_step=None, steps=0)

    timings = answer_timings([never], record=record_of_long_ago(), adapter=None)

    assert timings is not None
    assert (timings.first_step, timings.last_step) == (None, None)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "slow", "prompt": "p"}),
        (
            "/v1/chat/completions",
            {"model": "slow", "messages": [{"role": "user", "content": "p"}]},
        ),
        ("/generate", {"inputs": "p", "parameters": {"adapter_id": "slow"}}),
    ],
)
async def test_the_wait_for_an_adapter_is_told_once(path, body):
    engine, adapters = FakeEngine(ids("hi")), FakeAdapters()
    adapters.offer("slow", "aaaa0000")
    async with in_process(fake_app(engine, fake_library(engine, adapters))) as client:
        cold = (await client.post(path, json=body)).json()["timings"]
        warm = (await client.post(path, json=body)).json()["timings"]

    assert cold["adapter_load_ms"] > 0
    assert warm["adapter_load_ms"] == 0
    assert cold["prepare_ms"] >= 0
    assert (cold["first_step"], cold["last_step"]) == (4, 7)
