"""LoRAX's names in `/metrics`, and vLLM's count of the tokens of a step."""

from __future__ import annotations

from lorry_server.engine.client import EngineStats
from lorry_server.engine.step_log import StepEntry
from lorry_server.errors import QueueFullError
from tests.server.http.test_metrics import scrape, value
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, fake_app, ids, in_process

BODY = {"model": MODEL, "prompt": "p"}


async def test_requests_are_counted_under_loraxs_names_too():
    engine = FakeEngine(ids("hello"))
    async with in_process(fake_app(engine)) as client:
        await client.post("/v1/completions", json=BODY)
        await client.post("/v1/completions", json=BODY | {"max_tokens": 2})
        engine.fail_after = 1
        await client.post("/v1/completions", json=BODY)
        engine.refusal = QueueFullError("full", retry_after_s=1.0)
        await client.post("/v1/completions", json=BODY)
        samples = await scrape(client)

    assert value(samples, "lorax_request_count") == 4
    assert value(samples, "lorax_request_success") == 2
    failures = {
        word: value(samples, "lorax_request_failure", err=word)
        for word in ("overloaded", "generation", "dropped")
    }
    assert failures == {"overloaded": 1, "generation": 1, "dropped": 0}


async def test_durations_and_lengths_are_those_under_vllms_names():
    async with in_process(fake_app(FakeEngine(ids("hello")))) as client:
        await client.post("/v1/completions", json=BODY)
        samples = await scrape(client)

    for theirs, ours in {
        "lorax_request_duration": "vllm:e2e_request_latency_seconds",
        "lorax_request_queue_duration": "vllm:request_queue_time_seconds",
        "lorax_request_inference_duration": "vllm:request_inference_time_seconds",
        "lorax_request_input_length": "vllm:request_prompt_tokens",
        "lorax_request_generated_tokens": "vllm:request_generation_tokens",
    }.items():
        mine = {
            (name.removeprefix(ours), labels): number
            for (name, labels), number in samples.items()
            if name.startswith(ours) and not name.endswith("_created")
        }
        other = {
            (name.removeprefix(theirs), labels): number
            for (name, labels), number in samples.items()
            if name.startswith(theirs)
        }
        assert mine == other
        assert value(samples, f"{theirs}_count") == 1


async def test_the_queue_and_the_batch_are_the_engines():
    engine = FakeEngine()
    engine.current_stats = EngineStats(num_running=3, num_waiting=5, prefix_cache_hits=40)
    async with in_process(fake_app(engine)) as client:
        samples = await scrape(client)

    assert value(samples, "lorax_batch_current_size") == 3
    assert value(samples, "lorax_queue_length") == 5
    assert value(samples, "vllm:prompt_tokens_cached_total") == 40


async def test_tokens_of_each_step_are_counted_as_vllm_counts_them():
    engine = FakeEngine()
    for index, num_tokens in enumerate([1, 8, 9, 20_000]):
        engine.step_log.append(StepEntry(index, 0.0, 0.1, 1, num_tokens - 1, 1, 0, 1, 0, 1, 0, 0))
    async with in_process(fake_app(engine)) as client:
        samples = await scrape(client)

    name = "vllm:iteration_tokens_total"
    assert value(samples, f"{name}_count") == 4
    assert value(samples, f"{name}_sum") == 1 + 8 + 9 + 20_000
    buckets = {
        bound: value(samples, f"{name}_bucket", le=bound)
        for bound in ("1.0", "8.0", "16.0", "16384.0", "+Inf")
    }
    assert buckets == {"1.0": 1, "8.0": 2, "16.0": 3, "16384.0": 3, "+Inf": 4}
