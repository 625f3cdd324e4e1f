"""Tools in conversations: taken as OpenAI has them, and what the model calls put together."""

from __future__ import annotations

from typing import Any

import pytest

import lorry
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    chat_chunk,
    completion,
    usage_chunk,
)

MESSAGES = [{"role": "user", "content": "The weather in Kiel?"}]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def piece(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
    """One chunk with a piece of a call; `id` and `name` come in a call's first."""
    function = {"arguments": arguments}
    if "name" in fields:
        function["name"] = fields.pop("name")
    return chat_chunk({"tool_calls": [{"index": index, "function": function, **fields}]})


async def call_tools(request: ReceivedRequest, reply: Reply) -> None:
    if request.json.get("stream"):
        await reply.stream(
            chat_chunk({"role": "assistant", "content": None}),
            piece(0, "", id="c0", type="function", name="weather"),
            piece(0, '{"city": '),
            piece(1, '{"city": "Bonn"}', id="c1", type="function", name="weather"),
            piece(0, '"Kiel"}'),
            chat_chunk({}, finish_reason="tool_calls"),
            usage_chunk(9, 12),
        )
        return
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"c{index}",
                "type": "function",
                "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'},
            }
            for index, city in enumerate(("Kiel", "Bonn"))
        ],
    }
    answer = completion("")
    answer["choices"] = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    await reply.json(200, answer)


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_are_the_same_streamed_or_not(streamed: bool) -> None:
    async with FakeLLMServer(call_tools) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.chat(
            MESSAGES, tools=TOOLS, tool_choice="auto", token_times=streamed
        )

    assert [(call.id, call.name) for call in generation.tool_calls] == [
        ("c0", "weather"),
        ("c1", "weather"),
    ]
    assert [call.parsed() for call in generation.tool_calls] == [{"city": "Kiel"}, {"city": "Bonn"}]
    assert (generation.text, generation.finish_reason) == ("", "tool_calls")
    assert server.requests[0].json["tools"] == TOOLS
    assert server.requests[0].json["tool_choice"] == "auto"


async def test_the_message_of_a_call_goes_back_as_it_is() -> None:
    async with FakeLLMServer(call_tools) as server, lorry.AsyncClient(server.url) as client:
        first = await client.chat(MESSAGES, tools=TOOLS)
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "rain"}
            for call in first.tool_calls
        ]
        await client.chat([*MESSAGES, first.message, *results], tools=TOOLS)

    sent = server.requests[1].json["messages"]
    assert sent[1]["content"] is None
    assert sent[1]["tool_calls"][1]["function"] == {
        "name": "weather",
        "arguments": '{"city": "Bonn"}',
    }
    assert sent[2] == {"role": "tool", "tool_call_id": "c0", "content": "rain"}


async def test_the_first_piece_of_a_call_is_the_first_token() -> None:
    async with FakeLLMServer(call_tools) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.chat.stream(MESSAGES, tools=TOOLS).final()

    assert generation.timing.ttft is not None
    assert generation.timing.num_events == 4
    assert generation.token_ids is None


async def test_a_stream_that_is_cut_keeps_the_pieces_of_a_call() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(piece(0, '{"city": ', id="c0", name="weather"))
        reply.cut()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.StreamTruncated) as caught:
            await client.chat.stream(MESSAGES, tools=TOOLS).final()

    assert caught.value.partial is not None
    (call,) = caught.value.partial.tool_calls
    assert call.arguments == '{"city": '
    with pytest.raises(ValueError, match="arguments of 'weather' are not JSON"):
        call.parsed()


async def test_a_message_without_calls_is_plain() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        answer = completion("")
        message = {"role": "assistant", "content": "Rain.", "tool_calls": None}
        answer["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        await reply.json(200, answer)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.chat(MESSAGES)

    assert generation.message == {"role": "assistant", "content": "Rain."}
    assert generation.tool_calls == ()


@pytest.mark.parametrize("option", ["tools", "tool_choice", "parallel_tool_calls"])
async def test_options_of_conversations_are_refused_by_name_elsewhere(option: str) -> None:
    client = lorry.AsyncClient()

    with pytest.raises(TypeError, match=f"'{option}' is an option of conversations only"):
        await client.generate("Hi", **{option: []})  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize("options", [{"n": 2}, {"best_of": 3}, {"extra_body": {"n": 2}}])
async def test_several_choices_are_refused(options: dict[str, Any]) -> None:
    client = lorry.AsyncClient()

    with pytest.raises(TypeError, match="a call has one choice"):
        await client.chat(MESSAGES, **options)
    with pytest.raises(TypeError, match="a call has one choice"):
        client.stream("Hi", **options)


async def test_response_format_and_priority_go_to_both_routes() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.path.endswith("chat/completions"):
            await call_tools(request, reply)
        else:
            await reply.json(200, completion("{}", finish_reason="stop"))

    wanted = {"type": "json_object"}
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.generate("Hi", response_format=wanted, priority=-1)
        await client.chat(MESSAGES, response_format=wanted, priority=-1)

    for request in server.requests:
        assert (request.json["response_format"], request.json["priority"]) == (wanted, -1)
