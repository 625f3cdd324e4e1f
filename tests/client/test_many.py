"""Batches: lazy input, bounded concurrency, order, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion


async def repeat(request: ReceivedRequest, reply: Reply) -> None:
    prompt = request.json["prompt"]
    if prompt == "bad":
        await reply.json(400, {"error": {"message": "bad prompt", "type": "t"}})
    else:
        await reply.json(200, completion(f"<{prompt}>", finish_reason="stop"))


async def test_results_are_in_the_order_of_the_prompts() -> None:
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        results = await client.generate_many((f"{i}" for i in range(50)), concurrency=7)

    assert [result.text for result in results] == [f"<{i}>" for i in range(50)]
    assert server.num_connections <= 7


async def test_order_of_completion_can_be_asked_for() -> None:
    others_done = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json["prompt"] == "slow":
            await others_done.wait()
        elif request.json["prompt"] == "last":
            others_done.set()
        await repeat(request, reply)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        results = await client.generate_many(["slow", "a", "last"], order="completion")

    assert [result.text for result in results].index("<slow>") > 0


async def test_prompts_are_taken_as_they_are_needed() -> None:
    taken = 0
    server_has_two = asyncio.Event()
    may_answer = asyncio.Event()

    def prompts() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "x"

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 2:
            server_has_two.set()
        await may_answer.wait()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        run = asyncio.ensure_future(client.generate_many(prompts(), concurrency=2))
        await server_has_two.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        may_answer.set()

    assert taken == 2


async def test_request_has_options_of_its_own_and_shares_the_rest() -> None:
    prompts: list[str | lorry.Request] = [
        "a",
        lorry.Request("b", max_new_tokens=9, adapter="pirate", tag="B"),
    ]
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        results = await client.generate_many(prompts, max_tokens=3, tag="shared", concurrency=1)

    assert [request.json["max_tokens"] for request in server.requests] == [3, 9]
    assert [request.json["model"] for request in server.requests] == ["", "pirate"]
    assert [result.tag for result in results] == ["shared", "B"]


async def test_errors_are_returned_in_their_place_when_asked() -> None:
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        results = await client.generate_many(["a", "bad", "c"], on_error="return")

    assert isinstance(results[1], lorry.BadRequest)
    assert [r.text for r in results if isinstance(r, lorry.Generation)] == ["<a>", "<c>"]


async def test_first_error_is_raised_and_the_rest_is_cancelled() -> None:
    left = asyncio.Event()
    other_is_running = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json["prompt"] == "bad":
            await other_is_running.wait()
            await repeat(request, reply)
        else:
            other_is_running.set()
            await reply.client_left()
            left.set()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.BadRequest, match="bad prompt"):
            await client.generate_many(["other", "bad", "never sent"], concurrency=2)
        await left.wait()

    assert len(server.requests) == 2


async def test_empty_input_gives_an_empty_result() -> None:
    assert await lorry.AsyncClient().generate_many([]) == []


async def test_wrong_arguments_are_named() -> None:
    client = lorry.AsyncClient()

    with pytest.raises(ValueError, match="concurrency is 0"):
        await client.generate_many(["a"], concurrency=0)
    with pytest.raises(TypeError, match="prompts is one string"):
        await client.generate_many("a")
    with pytest.raises(TypeError, match="request_id belongs to one request"):
        await client.generate_many(["a"], request_id="x")
    with pytest.raises(TypeError, match="'max_token'"):
        lorry.Request("a", max_token=1)  # type: ignore[call-arg]  # the point of the test
