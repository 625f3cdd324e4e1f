"""What is counted by adapter and of the library, and that the series are bounded."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lorry_server.adapter_metrics import MAX_NAMES
from lorry_server.engine.client import EngineStats
from lorry_server.errors import AdapterError
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import MODEL, fake_app, ids, in_process

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(client: httpx.AsyncClient) -> Samples:
    response = await client.get("/metrics")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted({"model_name": MODEL, **labels}.items()))]


async def complete(client: httpx.AsyncClient, model: str) -> int:
    body = {"model": model, "prompt": "abc", "max_tokens": 2}
    return (await client.post("/v1/completions", json=body)).status_code


async def test_requests_tokens_and_first_tokens_are_counted_by_adapter():
    engine = FakeEngine(ids("hello"), adapters=["sql"])

    async with in_process(fake_app(engine)) as client:
        for model in ("sql", "sql", MODEL):
            await complete(client, model)
        samples = await scrape(client)

    for adapter, num in (("sql", 2), ("", 1)):
        assert value(samples, "lorry_adapter_requests_total", adapter=adapter) == num
        assert value(samples, "lorry_adapter_prompt_tokens_total", adapter=adapter) == 3 * num
        assert value(samples, "lorry_adapter_generation_tokens_total", adapter=adapter) == 2 * num
        name = "lorry_adapter_time_to_first_token_seconds_count"
        assert value(samples, name, adapter=adapter) == num


async def test_a_version_counts_for_its_name():
    adapters, engine = FakeAdapters(), FakeEngine(ids("hello"))
    library = fake_library(engine, adapters)
    adapters.put("/a", "abcd1234")

    async with in_process(fake_app(engine, library)) as client:
        await client.put("/v1/adapters/sql", json={"source": "/a"})
        await complete(client, "sql@abcd")
        samples = await scrape(client)

    assert value(samples, "lorry_adapter_requests_total", adapter="sql") == 1


async def test_loads_hits_evictions_and_bytes_are_the_librarys():
    adapters, engine = FakeAdapters(), FakeEngine(ids("hello"))
    library = fake_library(engine, adapters, host_memory_bytes=1500)
    adapters.offer("sql", "aaaa")
    adapters.offer("law", "bbbb")
    adapters.errors[adapters.offer("bad", "cccc")] = AdapterError("broken")
    engine.current_stats = EngineStats(resident_adapter_bytes=700, adapter_evictions=4)

    async with in_process(fake_app(engine, library)) as client:
        for name in ("sql", "sql", "law", "bad"):
            await complete(client, name)
        engine.current_stats = EngineStats(
            resident_adapter_bytes=700, adapter_evictions=4, resident_adapters=("bbbb",)
        )
        await complete(client, "law")
        samples = await scrape(client)

    assert value(samples, "lorry_adapter_loads_total", result="loaded") == 2
    assert value(samples, "lorry_adapter_loads_total", result="failed") == 1
    hits = {
        t: value(samples, "lorry_adapter_hits_total", tier=t) for t in ("device", "host", "disk")
    }
    assert hits == {"device": 1, "host": 1, "disk": 2}
    assert value(samples, "lorry_adapter_bytes", tier="host") == 1000
    assert value(samples, "lorry_adapter_bytes", tier="device") == 700
    assert value(samples, "lorry_adapter_evictions_total", tier="host") == 1
    assert value(samples, "lorry_adapter_evictions_total", tier="device") == 4
    assert value(samples, "lorry_adapter_load_seconds_count", phase="prepare") == 2
    assert value(samples, "lorry_adapter_load_seconds_sum", phase="fetch") > 0
    assert value(samples, "lorry_adapter_leases") == 0


async def test_names_beyond_the_bound_are_counted_together_until_others_go():
    adapters, engine = FakeAdapters(), FakeEngine(ids("hello"))
    library = fake_library(engine, adapters)
    names = [f"a{number}" for number in range(MAX_NAMES + 2)]
    for number, name in enumerate(names):
        adapters.offer(name, f"{number:08x}")

    async with in_process(fake_app(engine, library)) as client:
        for name in names:
            assert await complete(client, name) == 200
        full = await scrape(client)
        await client.delete("/v1/adapters/a0")
        await complete(client, names[-1])
        after = await scrape(client)

    counted = {
        dict(labels)["adapter"]
        for name, labels in full
        if name.endswith("_requests_total") and "adapter" in dict(labels)
    }
    assert len(counted) == MAX_NAMES + 1
    assert value(full, "lorry_adapter_requests_total", adapter="other") == 2
    assert value(after, "lorry_adapter_requests_total", adapter=names[-1]) == 1
    assert not [labels for _, labels in after if dict(labels).get("adapter") == "a0"]


async def test_what_clients_write_makes_no_series():
    adapters, engine = FakeAdapters(), FakeEngine(ids("hello"))
    library = fake_library(engine, adapters)

    async with in_process(fake_app(engine, library)) as client:
        before = await scrape(client)
        for number in range(50):
            await complete(client, f"unknown-{number}")
        after = await scrape(client)

    changing = {"vllm:lora_requests_info"}
    assert {key for key in before if key[0] not in changing} == {
        key for key in after if key[0] not in changing
    }


async def test_requests_that_wait_for_a_load_are_waiting_ones():
    adapters, engine = FakeAdapters(), FakeEngine(ids("hello"), adapters=["law"])
    library = fake_library(engine, adapters)
    gate = adapters.gate(adapters.offer("sql", "aaaa"))
    engine.current_stats = EngineStats(
        running_adapters=("digest-of-law", "0123456789"), waiting_adapters=("digest-of-law",)
    )

    async with in_process(fake_app(engine, library)) as client:
        waiting = asyncio.create_task(complete(client, "sql"))
        await gate.has_been_reached()
        samples = await scrape(client)
        gate.open()
        await waiting

    (labels,) = [dict(labels) for name, labels in samples if name == "vllm:lora_requests_info"]
    assert labels == {
        "max_lora": "1",
        "running_lora_adapters": "law,01234567",
        "waiting_lora_adapters": "law,sql",
    }
