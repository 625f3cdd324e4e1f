"""Batches: lazy input, bounded concurrency, order, errors, cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

import lorry
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    chat_answer,
    completion,
)


async def repeat(request: ReceivedRequest, reply: Reply) -> None:
    if request.path.endswith("/chat/completions"):
        await reply.json(200, chat_answer(f"<{request.json['messages'][0]['content']}>"))
        return
    prompt = request.json["prompt"]
    if prompt == "bad":
        await reply.json(400, {"error": {"message": "bad prompt", "type": "t"}})
    else:
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        await reply.json(200, completion(f"<{prompt}>", finish_reason="stop", usage=usage))


async def test_results_are_in_the_order_of_the_prompts() -> None:
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        results = await client.map((f"{i}" for i in range(50)), concurrency=7)

    assert [result.text for result in results] == [f"<{i}>" for i in range(50)]
    assert server.num_connections <= 7


async def test_generate_many_is_the_same_awaited() -> None:
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        results = await client.generate_many(["a", "b"], concurrency=1)

    assert [result.text for result in results] == ["<a>", "<b>"]


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


async def test_results_can_be_iterated_over_as_they_come() -> None:
    async with (
        FakeLLMServer(repeat) as server,
        lorry.AsyncClient(server.url) as client,
        client.map((str(i) for i in range(20)), concurrency=3) as run,
    ):
        texts = [result.text async for result in run]

    assert texts == [f"<{i}>" for i in range(20)]
    assert [result.text for result in run.results] == texts
    assert await run == run.results


async def test_an_asynchronous_input_is_read_too() -> None:
    async def prompts() -> AsyncIterator[str | lorry.Request]:
        for number in range(5):
            await asyncio.sleep(0)
            yield str(number)

    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        results = await client.map(prompts(), concurrency=2)

    assert [result.text for result in results] == [f"<{i}>" for i in range(5)]


async def test_conversations_and_prompts_share_a_batch() -> None:
    items = ["a", lorry.Request(messages=[{"role": "user", "content": "b"}], tag="chat")]
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        results = await client.map(items)

    assert [result.text for result in results] == ["<a>", "<b>"]
    assert [result.tag for result in results] == [None, "chat"]


async def test_tools_are_options_of_conversations_in_a_batch_too() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    item = lorry.Request(messages=[{"role": "user", "content": "b"}], tools=tools)
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        await client.map([item])

    assert server.requests[0].json["tools"] == tools
    with pytest.raises(TypeError, match="'tools' is an option of conversations only"):
        lorry.Request("prompt", tools=tools)


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


@pytest.mark.parametrize("order", ["input", "completion"])
async def test_never_more_than_concurrency_and_window_items_wait_to_be_taken(order: str) -> None:
    pulled = 0

    def prompts() -> Iterator[str]:
        nonlocal pulled
        for number in range(40):
            pulled += 1
            yield str(number)

    async with (
        FakeLLMServer(repeat) as server,
        lorry.AsyncClient(server.url) as client,
        client.map(prompts(), concurrency=3, window=2, order=order) as run,  # type: ignore[call-overload]  # parametrized
    ):
        taken = 0
        async for _ in run:
            taken += 1
            while run.stats().num_done < min(taken + 5, 40):  # noqa: ASYNC110  # several ends
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.002)  # more would be pulled by now
            assert pulled == min(taken + 5, 40)

    assert taken == 40


async def test_an_unending_input_can_be_left() -> None:
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        before = asyncio.all_tasks()
        run = client.map(map(str, count()), concurrency=2)
        async with run:
            async for result in run:
                if result.text == "<10>":
                    break
        left_over = asyncio.all_tasks() - before
        assert len(left_over) <= server.num_connections  # the server's own

    assert run.is_cancelled
    assert [result.text for result in run.results][:11] == [f"<{i}>" for i in range(11)]


async def test_leaving_the_context_closes_what_is_in_flight() -> None:
    all_wait, all_left = asyncio.Event(), asyncio.Event()
    num_waiting = 0

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        nonlocal num_waiting
        if request.json["prompt"] == "0":
            await all_wait.wait()
            await repeat(request, reply)
            return
        num_waiting += 1
        if num_waiting == 3:
            all_wait.set()
        await reply.client_left()
        num_waiting -= 1
        if not num_waiting:
            all_left.set()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        async with client.map(["0", "1", "2", "3"], concurrency=4) as run:
            assert (await anext(run)).text == "<0>"
        await all_left.wait()

    assert [result.text for result in run.results] == ["<0>"]


async def test_a_cancelled_run_gives_what_has_finished() -> None:
    first_is_done = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json["prompt"] == "a":
            await repeat(request, reply)
        else:
            await reply.client_left()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(["a", "b", "c"], progress=lambda progress: first_is_done.set())

        async def wait() -> list[lorry.Generation]:
            return await run

        waiting = asyncio.create_task(wait())
        await first_is_done.wait()
        run.cancel()

        assert [result.text for result in await waiting] == ["<a>"]
        assert [result.text async for result in run] == ["<a>"]
    assert run.is_cancelled


async def test_a_run_that_was_cancelled_before_it_began_sends_nothing() -> None:
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(["a"])
        run.cancel()

        assert await run == []
    assert server.requests == []


async def test_request_has_options_of_its_own_and_shares_the_rest() -> None:
    prompts: list[lorry.batch.request.Item] = [
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


async def test_skipped_errors_are_kept_apart_by_their_position() -> None:
    prompts = ["bad", "a", "bad", "bad", "c"]
    async with (
        FakeLLMServer(repeat) as server,
        lorry.AsyncClient(server.url) as client,
        client.map(prompts, on_error="skip", concurrency=1, window=0) as run,
    ):
        texts = [result.text async for result in run]

    assert texts == ["<a>", "<c>"]
    assert {index: type(error) for index, error in run.errors.items()} == {
        0: lorry.BadRequest,
        2: lorry.BadRequest,
        3: lorry.BadRequest,
    }


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


async def test_what_had_finished_before_the_first_error_is_in_the_results() -> None:
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(["a", "b", "bad", "c"], concurrency=1)
        with pytest.raises(lorry.BadRequest):
            await run

        assert [result.text for result in run.results] == ["<a>", "<b>"]
        assert list(run.errors) == [2]

        again = client.map(["a", "b", "bad", "c"], concurrency=1)
        assert (await anext(again)).text == "<a>"
        assert (await anext(again)).text == "<b>"
        for _ in range(2):
            with pytest.raises(lorry.BadRequest):
                await anext(again)


async def test_an_input_that_fails_ends_the_run_with_its_own_error() -> None:
    def prompts() -> Iterator[str]:
        yield "a"
        raise KeyError("no more lines")

    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(KeyError, match="no more lines"):
            await client.map(prompts(), on_error="return")


async def test_records_are_flat_rows_and_lines_of_json(tmp_path: Path) -> None:
    items = [lorry.Request("a", tag=Path("x"), adapter="pirate"), "bad"]
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(items, on_error="return")
        await run

    run.to_jsonl(tmp_path / "run.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["<a>", None]
    assert [row["tag"] for row in rows] == ["x", None]
    assert rows[1]["error"] == "BadRequest"
    assert rows[1]["error_message"] == "bad prompt (status 400)"
    assert (rows[0]["adapter"], rows[0]["completion_tokens"]) == ("pirate", 5)
    assert run.to_records()[0]["e2e_s"] == pytest.approx(rows[0]["e2e_s"])
    assert set(rows[0]) == set(rows[1])


async def test_empty_input_gives_an_empty_result() -> None:
    assert await lorry.AsyncClient().generate_many([]) == []


async def test_wrong_arguments_are_named() -> None:
    client = lorry.AsyncClient()

    with pytest.raises(ValueError, match="concurrency is 0"):
        client.map(["a"], concurrency=0)
    with pytest.raises(ValueError, match="window is -1"):
        client.map(["a"], window=-1)
    with pytest.raises(TypeError, match=r"concurrency is 2\.5"):
        client.map(["a"], concurrency=2.5)  # type: ignore[call-overload]  # the point
    with pytest.raises(ValueError, match="order is 'random'; it must be one of 'input'"):
        client.map(["a"], order="random")  # type: ignore[call-overload]  # the point
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        client.map(["a"], on_error="ignore")  # type: ignore[call-overload]  # the point
    with pytest.raises(TypeError, match=r"arrivals is 5; it must be a lorry\.Constant"):
        client.map(["a"], arrivals=5)  # type: ignore[call-overload]  # the point
    with pytest.raises(ValueError, match="window is for a closed loop"):
        client.map(["a"], arrivals=lorry.Constant(5), window=3)
    with pytest.raises(TypeError, match="progress is 'yes'"):
        client.map(["a"], progress="yes")  # type: ignore[call-overload]  # the point
    with pytest.raises(TypeError, match="prompts is one string"):
        await client.generate_many("a")
    with pytest.raises(TypeError, match="prompts is of type int"):
        client.map(5)  # type: ignore[call-overload]  # the point
    with pytest.raises(TypeError, match="request_id belongs to one request"):
        await client.generate_many(["a"], request_id="x")
    with pytest.raises(TypeError, match="'max_token'"):
        lorry.Request("a", max_token=1)  # type: ignore[call-arg]  # the point of the test
    with pytest.raises(TypeError, match="'concurency'; did you mean"):
        client.map(["a"], concurency=1)  # type: ignore[call-overload]  # the point
    with pytest.raises(TypeError, match="give one of them"):
        lorry.Request()


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ([{"role": "user", "content": "x"}], r"item 1 is a list of messages; give lorry.Request"),
        (7, "item 1 is of type int"),
        (b"bytes", "item 1 is of type bytes"),
    ],
)
async def test_a_wrong_item_is_named_by_its_position(item: object, complaint: str) -> None:
    async with FakeLLMServer(repeat) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(TypeError, match=complaint):
            await client.map(["a", item])  # type: ignore[list-item]  # the point
