"""Conversations: the same options and results by another route."""

from __future__ import annotations

import pytest

import lorry
from lorry.types.chat import ChatMessage
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    chat_answer,
    chat_chunk,
)


async def talk(request: ReceivedRequest, reply: Reply) -> None:
    if request.json.get("stream"):
        await reply.stream(
            chat_chunk({"role": "assistant", "content": ""}),
            chat_chunk({"content": "Arr"}, token_ids=[1]),
            chat_chunk({"content": "!"}, token_ids=[2]),
            chat_chunk({}, finish_reason="stop"),
        )
    else:
        await reply.json(200, chat_answer("Arr!", token_ids=[1, 2]))


MESSAGES = [{"role": "user", "content": "Hello"}]


async def test_chat_returns_a_generation() -> None:
    async with FakeLLMServer(talk) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.chat(MESSAGES, adapter="pirate", max_tokens=9, logprobs=2)

    assert (generation.text, generation.token_ids) == ("Arr!", (1, 2))
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].json == {
        "model": "pirate",
        "messages": MESSAGES,
        "max_tokens": 9,
        "logprobs": True,
        "top_logprobs": 2,
        "return_token_ids": True,
    }


async def test_chat_streams_tokens_and_the_role_is_not_one() -> None:
    async with (
        FakeLLMServer(talk) as server,
        lorry.AsyncClient(server.url) as client,
        client.chat.stream([ChatMessage(role="user", content="Hello")]) as stream,
    ):
        tokens = [token.text async for token in stream]

    assert tokens == ["Arr", "!"]
    assert server.requests[0].json["messages"] == MESSAGES
    assert stream.partial.finish_reason == "stop"


async def test_chat_logprobs_become_tokens() -> None:
    content = [
        {
            "token": "Arr",
            "logprob": -0.1,
            "top_logprobs": [{"token": "Arr", "logprob": -0.1}, {"token": "Ho", "logprob": -3.0}],
        }
    ]

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.stream(
            chat_chunk({"content": "Arr"}, logprobs={"content": content}, finish_reason="length")
        )

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.chat.stream(MESSAGES, logprobs=2).final()

    assert generation.tokens is not None
    assert generation.tokens[0].logprob == -0.1
    assert generation.tokens[0].top_logprobs == (("Arr", -0.1), ("Ho", -3.0))


async def test_chat_with_a_bare_string_is_refused() -> None:
    client = lorry.AsyncClient()

    with pytest.raises(TypeError, match="give a list"):
        await client.chat("Hello")  # type: ignore[arg-type]  # the point of the test
