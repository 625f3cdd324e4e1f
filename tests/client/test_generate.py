"""Single generations: what is sent, what comes back."""

from __future__ import annotations

import asyncio

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion


async def answer_hello(request: ReceivedRequest, reply: Reply) -> None:
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    await reply.json(200, completion("Hello!", finish_reason="stop", token_ids=[7, 8], usage=usage))


async def test_generation_carries_text_ids_usage_and_the_callers_tag() -> None:
    async with FakeLLMServer(answer_hello) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.generate("Hi", max_tokens=2, adapter="pirate", tag=("a", 1))

    assert generation.text == "Hello!"
    assert generation.token_ids == (7, 8)
    assert generation.finish_reason == "stop"
    assert generation.usage == lorry.Usage(3, 2, cached_tokens=1)
    assert (generation.adapter, generation.model, generation.tag) == ("pirate", "fake", ("a", 1))
    assert generation.endpoint == server.url
    assert generation.timing.e2e is not None
    assert generation.timing.ttft is None


async def test_body_has_what_was_given_and_nothing_more() -> None:
    async with FakeLLMServer(answer_hello) as server, lorry.AsyncClient(server.url) as client:
        await client.generate([1, 2, 3], max_tokens=5, stop="x", seed=0, temperature=None)

    assert server.requests[0].path == "/v1/completions"
    assert server.requests[0].json == {
        "model": "",
        "prompt": [1, 2, 3],
        "max_tokens": 5,
        "stop": "x",
        "seed": 0,
        "return_token_ids": True,
    }


async def test_adapter_is_the_model_of_the_request() -> None:
    async with FakeLLMServer(answer_hello) as server, lorry.AsyncClient(server.url) as client:
        await client.generate("Hi", adapter_id="pirate", max_new_tokens=4)

    assert server.requests[0].json["model"] == "pirate"
    assert server.requests[0].json["max_tokens"] == 4


async def test_extra_body_adds_replaces_and_removes_fields() -> None:
    extra = {"model": "other", "priority": 3, "return_token_ids": None}
    async with FakeLLMServer(answer_hello) as server, lorry.AsyncClient(server.url) as client:
        await client.generate("Hi", extra_body=extra)

    assert server.requests[0].json == {"model": "other", "prompt": "Hi", "priority": 3}


async def test_request_id_is_sent_and_returned() -> None:
    async with FakeLLMServer(answer_hello) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.generate("Hi", request_id="mine-1")

    assert server.requests[0].headers["x-request-id"] == "mine-1"
    assert generation.request_id == "mine-1"


async def test_key_and_own_headers_are_sent() -> None:
    async with (
        FakeLLMServer(answer_hello) as server,
        lorry.AsyncClient(server.url, api_key="k", headers={"X-Team": "blue"}) as client,
    ):
        await client.generate("Hi")

    assert server.requests[0].headers["authorization"] == "Bearer k"
    assert server.requests[0].headers["x-team"] == "blue"


async def test_unknown_fields_of_an_answer_are_kept() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        body = completion("x", finish_reason="stop", system_fingerprint="fp", timings={"ms": 1})
        await reply.json(200, body)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.generate("Hi")

    assert generation.extra == {"system_fingerprint": "fp", "timings": {"ms": 1}}
    assert generation.server is None
    assert generation.usage.source == "counted"


async def test_logprobs_become_tokens() -> None:
    logprobs = {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"a": -0.5, "c": -2.0}, {"b": -1.0}],
        "text_offset": [0, 1],
    }

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, completion("ab", finish_reason="length", logprobs=logprobs))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.generate("Hi", logprobs=2)

    assert generation.tokens is not None
    assert [(token.text, token.logprob) for token in generation.tokens] == [("a", -0.5), ("b", -1)]
    assert generation.tokens[0].top_logprobs == (("a", -0.5), ("c", -2.0))


async def test_both_names_of_an_option_are_a_type_error() -> None:
    client = lorry.AsyncClient()

    with pytest.raises(TypeError, match="'max_tokens' and 'max_new_tokens'"):
        await client.generate("Hi", max_tokens=1, max_new_tokens=1)


async def test_unknown_option_is_refused_with_the_nearest_name() -> None:
    client = lorry.AsyncClient()

    with pytest.raises(TypeError, match="'max_token'; did you mean 'max_tokens'"):
        await client.generate("Hi", max_token=1)  # type: ignore[call-arg]  # the point of the test


async def test_list_of_prompts_is_refused_by_generate() -> None:
    client = lorry.AsyncClient()

    with pytest.raises(TypeError, match="generate_many"):
        await client.generate(["a", "b"])  # type: ignore[list-item]  # the point of the test


@pytest.mark.parametrize("options", [{"deadline": 0}, {"timeout": -1.0}, {"request_id": "a\nb"}])
async def test_wrong_limit_or_id_is_named(options: lorry.GenerateOptions) -> None:
    client = lorry.AsyncClient()

    with pytest.raises(ValueError, match="it must be"):
        await client.generate("Hi", **options)


async def test_calls_in_turn_share_one_connection() -> None:
    async with FakeLLMServer(answer_hello) as server, lorry.AsyncClient(server.url) as client:
        first = await client.generate("Hi")
        second = await client.generate("Hi")

    assert server.num_connections == 1
    assert (first.timing.reused_connection, second.timing.reused_connection) == (False, True)


async def test_gathered_calls_all_go_out_at_once() -> None:
    arrived = 0
    all_here = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 150:
            all_here.set()
        await all_here.wait()
        await answer_hello(request, reply)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generations = await asyncio.gather(*(client.generate("Hi") for _ in range(150)))

    assert len(generations) == 150
    assert server.num_connections == 150


async def test_body_of_several_mebibytes_is_sent_whole() -> None:
    async with FakeLLMServer(answer_hello) as server, lorry.AsyncClient(server.url) as client:
        await client.generate("x" * (3 * 2**20))

    assert len(server.requests[0].json["prompt"]) == 3 * 2**20


async def test_token_times_streams_underneath() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.stream(
            completion("a", token_ids=[1]), completion("b", token_ids=[2], finish_reason="stop")
        )

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.generate("Hi", token_times=True)

    assert server.requests[0].json["stream"] is True
    assert generation.text == "ab"
    assert generation.timing.token_ns is not None
    assert len(generation.timing.token_ns) == 2
    assert generation.timing.ttft is not None


async def test_answer_that_is_not_json_is_a_protocol_error_with_its_start() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.plain(200, b"<html>proxy</html>", content_type="text/html")

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.StreamProtocolError) as caught:
            await client.generate("Hi")

    assert caught.value.snippet == b"<html>proxy</html>"
    assert caught.value.endpoint == server.url


@pytest.mark.parametrize("is_counted", [True, False])
async def test_tokens_of_a_whole_answer_are_counted_by_the_server_or_here(is_counted: bool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        body = completion("abc", finish_reason="stop", token_ids=[5, 6, 7])
        await reply.json(200, {**body, "usage": usage} if is_counted else body)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.generate("Hi")

    assert generation.usage.completion_tokens == generation.timing.num_tokens == 3
    assert generation.usage.source == ("server" if is_counted else "counted")
    assert generation.token_ids == (5, 6, 7)
    assert (generation.tokens, generation.extra) == (None, {})
