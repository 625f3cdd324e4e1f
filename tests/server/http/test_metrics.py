"""`GET /metrics`: vLLM's names, as dashboards and routers read them."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lorry_server.engine.client import EngineStats
from lorry_server.errors import DrainingError, QueueFullError
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, fake_app, ids, in_process
from tests.support.live_server import live_server

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(client: httpx.AsyncClient, url: str = "") -> Samples:
    response = await client.get(f"{url}/metrics")
    assert response.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted({"model_name": MODEL, **labels}.items()))]


async def test_gauges_and_counters_are_the_engines():
    engine = FakeEngine()
    engine.current_stats = EngineStats(
        num_running=3,
        num_waiting=5,
        num_used_blocks=16,
        num_preemptions=7,
        prompt_tokens=100,
        generation_tokens=50,
        prefix_cache_queries=80,
        prefix_cache_hits=40,
        num_drafts=6,
        num_draft_tokens=24,
        num_accepted_tokens=18,
        corrupted_requests=1,
    )

    async with in_process(fake_app(engine)) as client:
        samples = await scrape(client)

    assert value(samples, "vllm:num_requests_running") == 3
    assert value(samples, "vllm:num_requests_waiting") == 5
    assert value(samples, "vllm:kv_cache_usage_perc") == 0.25
    assert value(samples, "vllm:num_preemptions_total") == 7
    assert value(samples, "vllm:prompt_tokens_total") == 100
    assert value(samples, "vllm:generation_tokens_total") == 50
    assert value(samples, "vllm:prefix_cache_queries_total") == 80
    assert value(samples, "vllm:prefix_cache_hits_total") == 40
    assert value(samples, "vllm:spec_decode_num_drafts_total") == 6
    assert value(samples, "vllm:spec_decode_num_draft_tokens_total") == 24
    assert value(samples, "vllm:spec_decode_num_accepted_tokens_total") == 18
    assert value(samples, "vllm:corrupted_requests_total") == 1
    assert value(samples, "vllm:cache_config_info", block_size="16", num_gpu_blocks="64") == 1


async def test_adapters_in_use_are_listed_in_labels():
    engine = FakeEngine(adapters=["sql", "law", "tax"])
    engine.current_stats = EngineStats(
        running_adapters=("digest-of-sql", "digest-of-law"), waiting_adapters=("digest-of-tax",)
    )

    async with in_process(fake_app(engine)) as client:
        samples = await scrape(client)

    (labels,) = [dict(labels) for name, labels in samples if name == "vllm:lora_requests_info"]
    assert labels == {
        "max_lora": "3",
        "running_lora_adapters": "sql,law",
        "waiting_lora_adapters": "tax",
    }


async def test_finished_sequences_are_counted_by_why():
    engine = FakeEngine(ids("hello"))
    body = {"model": MODEL, "prompt": "p"}

    async with in_process(fake_app(engine)) as client:
        await client.post("/v1/completions", json=body)
        await client.post("/v1/completions", json=body | {"max_tokens": 2, "n": 2})
        await client.post("/v1/completions", json=body | {"stop": "ell"})
        engine.fail_after = 1
        await client.post("/v1/completions", json=body)
        samples = await scrape(client)

    finished = {
        reason: value(samples, "vllm:request_success_total", finished_reason=reason)
        for reason in ("stop", "length", "abort", "error")
    }
    assert finished == {"stop": 2, "length": 2, "abort": 0, "error": 1}


async def test_times_of_a_sequence_are_observed_once():
    engine = FakeEngine(ids("hello"))

    async with in_process(fake_app(engine)) as client:
        await client.post("/v1/completions", json={"model": MODEL, "prompt": "p"})
        samples = await scrape(client)

    for name in (
        "vllm:time_to_first_token_seconds",
        "vllm:request_time_per_output_token_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_queue_time_seconds",
        "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds",
        "vllm:request_inference_time_seconds",
        "vllm:request_prompt_tokens",
        "vllm:request_generation_tokens",
    ):
        assert value(samples, f"{name}_count") == 1, name
    assert value(samples, "vllm:inter_token_latency_seconds_count") == 5
    assert value(samples, "vllm:request_prefill_time_seconds_sum") == 0.02
    assert value(samples, "vllm:request_generation_tokens_sum") == 6


async def test_refusals_are_counted_by_why():
    engine = FakeEngine()
    body = {"model": MODEL, "prompt": "p"}

    async with in_process(fake_app(engine)) as client:
        engine.refusal = QueueFullError("full", retry_after_s=1.0)
        await client.post("/v1/completions", json=body)
        await client.post("/generate", json={"inputs": "p"})
        engine.refusal = DrainingError("draining", retry_after_s=1.0)
        await client.post("/v1/completions", json=body)
        samples = await scrape(client)

    assert value(samples, "vllm:admission_rejections_total", reason="queue_full") == 2
    assert value(samples, "vllm:admission_rejections_total", reason="draining") == 1


async def test_client_that_left_is_counted_as_an_abort():
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        call = asyncio.create_task(
            client.post(f"{url}/v1/completions", json={"model": MODEL, "prompt": "p"})
        )
        await engine.wait_for(lambda: bool(engine.submitted))
        call.cancel()
        await asyncio.wait([call])
        await engine.wait_for(lambda: engine.num_open == 0)
        samples = await scrape(client, url)

    assert value(samples, "vllm:request_success_total", finished_reason="abort") == 1


async def test_loaded_adapters_are_labels_and_what_clients_write_is_not():
    engine = FakeEngine(ids("hi"), adapters=["sql"])
    body = {"prompt": "p", "max_tokens": 2}

    async with in_process(fake_app(engine)) as client:
        await client.post("/v1/completions", json=body | {"model": "sql"})
        await client.post("/v1/completions", json=body | {"model": MODEL, "n": 2})
        before = await scrape(client)
        for index in range(20):
            await client.post("/v1/completions", json=body | {"model": f"unknown-{index}"})
            await client.get(f"/unknown-{index}")
        after = await scrape(client)

    assert value(before, "lorry_adapter_requests_total", adapter="sql") == 1
    assert value(before, "lorry_adapter_requests_total", adapter="") == 2
    assert value(before, "lorry_adapter_generation_tokens_total", adapter="sql") == 2
    assert before.keys() == after.keys() | {
        key for key in before if key[0] == "vllm:lora_requests_info"
    }
