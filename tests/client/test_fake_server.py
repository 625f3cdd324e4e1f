"""`lorry.testing`: the fake server says what it was told to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import pytest

import lorry
from lorry.testing import Answer, FakeServer, ReceivedRequest, Refusal

pytest_plugins = ["lorry.testing.pytest_plugin"]

HELLO = [{"role": "user", "content": "Hi"}]


async def test_text_comes_whole_streamed_and_as_a_chat() -> None:
    async with (
        FakeServer(Answer(text="Arr, my matey!")) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        whole = await client.generate("Hi")
        streamed = await client.stream("Hi").final()
        chat = await client.chat(HELLO)
        chat_streamed = await client.chat.stream(HELLO).final()

    assert {g.text for g in (whole, streamed, chat, chat_streamed)} == {"Arr, my matey!"}
    assert {g.token_ids for g in (whole, streamed, chat, chat_streamed)} == {whole.token_ids}
    assert [token.text for token in streamed.tokens or ()] == ["Arr,", " my", " matey!"]
    assert {g.usage.completion_tokens for g in (whole, streamed, chat, chat_streamed)} == {3}


async def test_tokens_may_be_given_one_by_one() -> None:
    async with (
        FakeServer(Answer(tokens=["a", "", "\n\n", "b"])) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        streamed = await client.stream("Hi").final()

    assert [token.text for token in streamed.tokens or ()] == ["a", "", "\n\n", "b"]


async def test_max_tokens_cuts_an_answer_short() -> None:
    async with (
        FakeServer(Answer(text="one two three")) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        whole = await client.generate("Hi", max_tokens=2)
        streamed = await client.stream("Hi", max_tokens=2).final()

    assert (whole.text, whole.finish_reason) == ("one two", "length")
    assert (streamed.text, streamed.finish_reason) == ("one two", "length")


async def test_answers_differ_by_adapter_and_unknown_ones_are_not_found() -> None:
    answers = {"": Answer(text="base"), "pirate": [Answer(text="Arr"), Answer(text="Avast")]}
    async with FakeServer(answers) as server, lorry.AsyncClient(server.url) as client:
        texts = [
            (await client.generate("Hi", adapter=adapter)).text
            for adapter in ("pirate", None, "pirate", "pirate")
        ]
        with pytest.raises(lorry.AdapterNotFound):
            await client.generate("Hi", adapter="parrot")
        models = await client.models.list()

    assert texts == ["Arr", "base", "Avast", "Avast"]
    assert [model.id for model in models] == ["fake", "pirate"]


async def test_answer_may_be_a_function_of_the_request() -> None:
    def answer(request: ReceivedRequest) -> Answer:
        return Answer(text=request.json["prompt"].upper())

    async with FakeServer(answer) as server, lorry.AsyncClient(server.url) as client:
        assert (await client.generate("hi")).text == "HI"
        server.answers = Answer(text="something else")
        assert (await client.generate("hi")).text == "something else"


async def test_refusal_is_the_status_with_its_reason() -> None:
    refusal = Refusal(status=429, message="too many", code="slow_down", retry_after_s=2.5)
    async with FakeServer(refusal) as server:
        once = lorry.RetryPolicy(max_attempts=1)
        async with lorry.AsyncClient(server.url, retry=once) as client:
            with pytest.raises(lorry.Overloaded, match="too many") as caught:
                await client.generate("Hi")

    assert (caught.value.code, caught.value.retry_after) == ("slow_down", 2.5)


@pytest.mark.parametrize(
    ("failure", "streamed", "whole"),
    [
        ("cut", lorry.StreamTruncated, lorry.ConnectionLost),
        ("error", lorry.ServerStreamError, lorry.ServerError),
        ("hang", lorry.DeadlineExceeded, lorry.DeadlineExceeded),
    ],
)
async def test_failure_in_the_middle(
    failure: Any, streamed: type[lorry.ClientError], whole: type[lorry.ClientError]
) -> None:
    async with (
        FakeServer(Answer(text="a b c", failure=failure, failure_after=2)) as server,
        lorry.AsyncClient(server.url, timeout=0.2) as client,
    ):
        with pytest.raises(streamed) as caught:
            await client.stream("Hi").final()
        with pytest.raises(whole):
            await client.generate("Hi")

    assert caught.value.partial is not None
    assert caught.value.partial.text == "a b"


async def test_delays_are_kept_to() -> None:
    async with (
        FakeServer(Answer(text="a b c", first_token_s=0.05, gap_s=0.02)) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        streamed = await client.stream("Hi").final()
        whole = await client.generate("Hi")

    assert streamed.timing.ttft is not None
    assert streamed.timing.ttft >= 0.05
    assert len(streamed.timing.itl) == 2
    assert streamed.timing.e2e is not None
    assert streamed.timing.e2e >= 0.09  # a single gap is shorter where the one before was read late
    assert whole.timing.e2e is not None
    assert whole.timing.e2e >= 0.09


async def test_client_that_leaves_is_noticed_and_counted() -> None:
    async with (
        FakeServer(Answer(text="a b", gap_s=60.0)) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        async with client.stream("Hi") as stream:
            await anext(stream)
            assert server.num_open == 1
        await server.idle()

    assert (server.num_abandoned, server.most_open) == (1, 1)


async def test_requests_are_logged_and_concurrency_is_seen() -> None:
    async with (
        FakeServer(Answer(first_token_s=0.05)) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        await asyncio.gather(*(client.generate(f"prompt {i}", seed=i) for i in range(8)))

    assert server.most_open == 8
    assert server.num_connections == 8
    assert sorted(r.json["seed"] for r in server.requests) == list(range(8))
    assert all(request.received_ns > 0 for request in server.requests)


async def test_other_routes_are_not_found() -> None:
    async with FakeServer() as server, lorry.AsyncClient(server.url) as client:
        assert (await client.health()).is_ready
        with pytest.raises(lorry.HTTPStatusError, match="has no POST /tokenize"):
            await client.tokenize("x")


def test_empty_sequence_of_answers_is_an_error_of_the_test() -> None:
    with pytest.raises(ValueError, match="answers is empty"):
        FakeServer([])


def test_fixture_serves_tests_that_are_no_coroutines(lorry_fake_server: FakeServer) -> None:
    lorry_fake_server.answers = Answer(text="from a thread")
    with urllib.request.urlopen(f"{lorry_fake_server.url}/health") as answer:
        assert answer.status == 200

    generation = asyncio.run(generate(lorry_fake_server.url))

    assert generation.text == "from a thread"
    assert len(lorry_fake_server.requests) == 2


async def generate(url: str) -> lorry.Generation:
    async with lorry.AsyncClient(url) as client:
        return await client.generate("Hi")
