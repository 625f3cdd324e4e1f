"""`Generation.to_openai`: the same, in the types of the package `openai`."""

from __future__ import annotations

import openai

import lorry
from lorry.testing import Answer, FakeServer


async def test_generation_becomes_a_chat_completion() -> None:
    async with (
        FakeServer({"pirate": Answer(text="Arr, me")}) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        generation = await client.generate("Hi", adapter="pirate")
    made = generation.to_openai()

    assert isinstance(made, openai.types.chat.ChatCompletion)
    assert made.choices[0].message.content == "Arr, me"
    assert made.choices[0].message.role == "assistant"
    assert made.choices[0].finish_reason == "stop"
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (8, 10)
    assert made._request_id == generation.request_id
    assert made.choices[0].logprobs is None


def test_logprobs_become_the_packages_own() -> None:
    token = lorry.Token("é", index=0, t_ns=1, logprob=-0.5, top_logprobs=(("e", -1.5),))
    generation = lorry.Generation(
        "é",
        "length",
        lorry.Usage(3, 1, cached_tokens=2),
        lorry.Timing(created_ns=1, intended_ns=1),
        "id-1",
        "http://x",
        tokens=(token,),
    )
    made = generation.to_openai()

    assert made.choices[0].logprobs is not None
    content = made.choices[0].logprobs.content
    assert content is not None
    assert (content[0].token, content[0].bytes) == ("é", list("é".encode()))
    assert content[0].top_logprobs[0].logprob == -1.5
    assert made.usage is not None
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.cached_tokens == 2


def test_tool_calls_become_the_packages_own() -> None:
    generation = lorry.Generation(
        "",
        "tool_calls",
        lorry.Usage(3, 1),
        lorry.Timing(created_ns=1, intended_ns=1),
        "id-1",
        "http://x",
        tool_calls=(lorry.ToolCall("call-1", "weather", '{"city": "Oslo"}'),),
    )
    message = generation.to_openai().choices[0].message

    assert message.content is None
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.id, call.function.name) == ("call-1", "weather")
    assert call.function.arguments == '{"city": "Oslo"}'
