"""Deadlines, repeated requests and the step log, on a real engine and over loopback."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import WholeServer, until, whole_server

BODY: dict[str, Any] = {
    "model": "tiny",
    "prompt": "abcd abcd",
    "max_tokens": 60,
    "temperature": 0.0,
    "ignore_eos": True,
    "return_token_ids": True,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


async def complete(
    session: aiohttp.ClientSession, body: dict[str, Any], **headers: str
) -> tuple[int, Any]:
    async with session.post("/v1/completions", json=body, headers=headers) as response:
        return response.status, await response.json()


def is_idle(server: WholeServer) -> bool:
    stats = server.service.stats()
    return (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)


async def test_a_request_whose_time_is_up_is_not_computed(model: Path) -> None:
    async with whole_server(model) as server, aiohttp.ClientSession(server.base_url) as session:
        status, answer = await complete(session, BODY, **{"x-request-timeout-ms": "0"})

        assert status == 408
        assert answer["error"]["code"] == "deadline_exceeded"
        assert server.service.stats().prompt_tokens == 0
        assert is_idle(server)


async def test_a_stream_whose_time_runs_out_frees_its_blocks_and_changes_no_neighbour(
    model: Path,
) -> None:
    endless = BODY | {"stream": True, "max_tokens": 100_000}
    flags = ("--max-model-len", "2000")
    async with (
        whole_server(model, *flags) as server,
        aiohttp.ClientSession(server.base_url) as session,
    ):
        _, alone = await complete(session, BODY)
        endless["max_tokens"] = 1900
        async with session.post(
            "/v1/completions", json=endless, headers={"x-request-timeout-ms": "60"}
        ) as response:
            _, beside = await complete(session, BODY)
            data = [line async for line in response.content if line.startswith(b"data: ")]
        await until(lambda: is_idle(server))

    last = json.loads(data[-1].removeprefix(b"data: "))
    assert last["error"]["code"] == "deadline_exceeded"
    assert beside["choices"][0]["token_ids"] == alone["choices"][0]["token_ids"]


async def test_the_same_request_sent_ten_times_at_once_is_computed_once(model: Path) -> None:
    sampled = BODY | {"temperature": 1.0}
    async with whole_server(model) as server, aiohttp.ClientSession(server.base_url) as session:
        answers = await asyncio.gather(
            *(complete(session, sampled, **{"idempotency-key": "k"}) for _ in range(10))
        )

        assert [status for status, _ in answers] == [200] * 10
        assert all(answer == answers[0][1] for _, answer in answers)
        assert server.service.stats().generation_tokens == 60


async def test_the_steps_of_a_request_are_in_the_log_and_account_for_its_tokens(
    model: Path,
) -> None:
    async with whole_server(model) as server, aiohttp.ClientSession(server.base_url) as session:
        _, answer = await complete(session, BODY)
        timings = answer["timings"]
        query = f"?since={timings['first_step']}&limit=1000"
        async with session.get(f"/v1/steps{query}") as response:
            log = await response.json()

    steps = [step for step in log["steps"] if step["index"] <= timings["last_step"]]
    assert len(steps) == timings["steps"] == timings["last_step"] - timings["first_step"] + 1
    assert sum(step["prefill_tokens"] for step in steps) == answer["usage"]["prompt_tokens"]
    # The first token comes with the prompt's last step.
    assert sum(step["decode_tokens"] for step in steps) == 60 - 1
    computed_ms = timings["prefill_ms"] + timings["decode_ms"]
    first, last = steps[0], steps[-1]
    span_ms = (last["start_ns"] - first["start_ns"]) / 1e6 + last["step_ms"]
    assert span_ms == pytest.approx(computed_ms, abs=0.01)
    parts = timings["queue_ms"] + computed_ms + timings["finish_ms"]
    assert parts == pytest.approx(timings["total_ms"], abs=0.01)
    assert timings["prepare_ms"] <= timings["queue_ms"]
