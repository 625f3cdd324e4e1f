"""The client against the real HTTP application, over a scripted engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

import lorry
from lorry.transports.select import default_transport
from lorry_server.errors import QueueFullError
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, fake_app, ids
from tests.support.live_server import live_server


@contextlib.asynccontextmanager
async def client_of(engine: FakeEngine, **settings: Any) -> AsyncIterator[lorry.AsyncClient]:
    async with (
        live_server(fake_app(engine, **settings)) as url,
        lorry.AsyncClient(url, retry=lorry.RetryPolicy(max_attempts=1)) as client,
    ):
        yield client


async def test_generation_has_ids_usage_and_the_servers_timings() -> None:
    async with client_of(FakeEngine(ids("hey"), adapters=["pirate"])) as client:
        generation = await client.generate("ab", adapter="pirate", max_tokens=3, request_id="mine")

    assert (generation.text, generation.finish_reason) == ("hey", "length")
    assert generation.token_ids == tuple(ids("hey"))
    assert generation.prompt_token_ids == tuple(ids("ab"))
    assert generation.model == "pirate"
    assert generation.usage == lorry.Usage(2, 3, cached_tokens=0)
    assert generation.server is not None
    assert (generation.server.request_id, generation.server.adapter) == ("mine", "pirate")
    assert generation.extra == {}


async def test_stream_and_generation_agree() -> None:
    async with client_of(FakeEngine(ids("pieces of eight"))) as client:
        whole = await client.generate("ab")
        streamed = await client.stream("ab").final()

    assert streamed.text == whole.text == "pieces of eight"
    assert streamed.token_ids == whole.token_ids
    assert streamed.usage == whole.usage
    assert streamed.finish_reason == whole.finish_reason == "stop"
    assert streamed.server is not None
    assert streamed.timing.token_ns is not None
    assert len(streamed.timing.token_ns) == whole.usage.completion_tokens


async def test_every_sampling_option_is_taken_by_the_server() -> None:
    options: lorry.GenerateOptions = {
        "max_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "stop": ["x"],
        "stop_token_ids": [9],
        "seed": 3,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {5: -1.0},
        "min_tokens": 1,
        "ignore_eos": True,
    }
    engine = FakeEngine(ids("hey"))
    async with client_of(engine) as client:
        await client.generate("ab", **options)
        await client.chat([{"role": "user", "content": "ab"}], **options)

    assert [request.sampling.seed for request in engine.submitted] == [3, 3]
    assert [request.sampling.top_k for request in engine.submitted] == [5, 5]


async def test_chat_works_whole_and_streamed() -> None:
    messages = [{"role": "user", "content": "hello"}]
    async with client_of(FakeEngine(ids("ahoy"))) as client:
        whole = await client.chat(messages)
        streamed = await client.chat.stream(messages).final()

    assert whole.text == streamed.text == "ahoy"
    assert whole.prompt_token_ids is not None


async def test_batch_gives_every_prompt_its_answer() -> None:
    engine = FakeEngine(lambda request: request.prompt_token_ids)
    async with client_of(engine) as client:
        results = await client.generate_many([f"p{i}" for i in range(8)], concurrency=3)

    assert [result.text for result in results] == [f"p{i}" for i in range(8)]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_cancelled_call_is_aborted_in_the_engine(is_streamed: bool) -> None:
    engine = FakeEngine(ids("hey"))
    engine.hold()
    async with client_of(engine) as client:
        task = asyncio.create_task(client.generate("ab", token_times=is_streamed))
        await engine.wait_for(lambda: bool(engine.submitted))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.wait_for(lambda: engine.num_open == 0)

    assert engine.aborted == [engine.submitted[0].request_id]


async def test_unknown_adapter_is_adapter_not_found() -> None:
    async with client_of(FakeEngine(ids("hey"))) as client:
        with pytest.raises(lorry.AdapterNotFound, match="nobody"):
            await client.generate("ab", adapter="nobody")


async def test_wrong_value_is_a_bad_request_that_names_its_field() -> None:
    async with client_of(FakeEngine(ids("hey"))) as client:
        with pytest.raises(lorry.BadRequest) as caught:
            await client.generate("ab", top_p=7.0)

    assert caught.value.param == "top_p"


async def test_prompt_that_does_not_fit_is_context_too_long() -> None:
    async with client_of(FakeEngine(ids("hey"))) as client:
        with pytest.raises(lorry.ContextTooLong):
            await client.generate("x" * 500)


async def test_full_queue_is_overloaded_and_may_be_tried_again() -> None:
    engine = FakeEngine(ids("hey"))
    engine.refusal = QueueFullError("8 requests wait", retry_after_s=2.0)
    async with client_of(engine) as client:
        with pytest.raises(lorry.Overloaded) as caught:
            await client.generate("ab")

    assert (caught.value.retryable, caught.value.retry_after) == (True, 2.0)


@pytest.mark.parametrize("tokens_before", [0, 2])
async def test_failure_in_a_stream_keeps_the_part_before_it(tokens_before: int) -> None:
    engine = FakeEngine(ids("hey"))
    engine.fail_after = tokens_before
    async with client_of(engine) as client:
        with pytest.raises((lorry.ServerStreamError, lorry.ServerError)) as caught:
            await client.stream("ab").final()

    assert caught.value.partial is not None
    assert "hey".startswith(caught.value.partial.text)
    assert bool(caught.value.partial.text) == bool(tokens_before)
    assert caught.value.retryable is False


async def test_models_health_and_tokens_are_there() -> None:
    async with client_of(FakeEngine(adapters=["pirate"])) as client:
        await client.ready(timeout=30)
        health = await client.health()
        cards = await client.models.list()
        token_ids = await client.tokenize("ab")

    assert health.is_ready
    assert [(card.id, card.parent) for card in cards] == [(MODEL, None), ("pirate", MODEL)]
    assert token_ids == ids("ab")


async def test_application_can_be_called_in_process() -> None:
    transport = httpx2.ASGITransport(app=fake_app(FakeEngine(ids("hey"))))
    async with httpx2.AsyncClient(transport=transport) as http:
        client = lorry.AsyncClient("http://in.process", transport=http)
        whole = await client.generate("ab")
        streamed = await client.stream("ab").text()

    assert whole.text == streamed == "hey"


class LosingAnswers:
    """A transport on whose kept connections an answer is lost, once the server has given it."""

    def __init__(self) -> None:
        self._inner = default_transport()
        self.num_lost = 0

    async def send(self, request: lorry.WireRequest, *, attempt: lorry.AttemptTiming) -> Any:
        response = await self._inner.send(request, attempt=attempt)
        if attempt.reused_connection and not self.num_lost:
            self.num_lost += 1
            while await response.read_some():
                pass
            raise lorry.ConnectionLost("the connection ended before the answer did")
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_an_answer_that_a_kept_connection_lost_is_fetched_again_and_not_computed() -> None:
    engine, transport = FakeEngine(ids("hey")), LosingAnswers()
    async with (
        live_server(fake_app(engine)) as url,
        lorry.AsyncClient(url, transport=transport, retry=1) as client,
    ):
        await client.generate("ab")
        generation = await client.generate("ab", request_id='an id of "mine"')

    assert transport.num_lost == 1
    assert (generation.text, generation.attempts) == ("hey", 2)
    assert len(engine.submitted) == 2
