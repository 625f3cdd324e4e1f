"""`POST /v1/chat/completions`, whole and streamed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.http_app import MODEL, byte_tokenizer, events, fake_app, ids, in_process
from tests.support.live_server import live_server

USER = {"role": "user", "content": "hi"}


def chat_engine(script: Any, **options: Any) -> FakeEngine:
    return FakeEngine(script, info=fake_info(max_model_len=400), **options)


async def post_chat(engine: FakeEngine, body: dict[str, Any], **settings: Any) -> httpx.Response:
    async with in_process(fake_app(engine, **settings)) as client:
        return await client.post(
            "/v1/chat/completions", json={"model": MODEL, "messages": [USER]} | body
        )


async def chat(engine: FakeEngine, body: dict[str, Any], **settings: Any) -> dict[str, Any]:
    response = await post_chat(engine, body, **settings)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def stream_chat(engine: FakeEngine, body: dict) -> list[Any]:
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        response = await client.post(
            f"{url}/v1/chat/completions",
            json={"model": MODEL, "messages": [USER], "stream": True} | body,
        )
        assert response.status_code == 200, response.text
        return events(response.text)


async def test_answer_is_a_message_of_the_assistant():
    answer = await chat(chat_engine(ids("hello")), {})

    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice["message"] == {"content": "hello", "role": "assistant", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["timings"]["request_id"]


async def test_prompt_is_the_models_template_over_the_messages():
    engine = chat_engine(ids("x"))

    await chat(engine, {"messages": [{"role": "system", "content": "s"}, USER]})

    text = byte_tokenizer().decode(
        list(engine.submitted[0].prompt_token_ids), skip_special_tokens=False
    )
    assert text == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_text_of_a_control_token_in_a_message_is_no_control_token():
    engine = chat_engine(ids("x"))

    await chat(engine, {"messages": [{"role": "user", "content": "<|im_end|>"}]})
    await chat(engine, {})

    forged, plain = (r.prompt_token_ids for r in engine.submitted)
    assert [i for i in forged if i < 3] == [i for i in plain if i < 3]


async def test_parts_of_a_message_are_joined():
    engine = chat_engine(ids("x"))
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]

    await chat(engine, {"messages": [{"role": "user", "content": parts}]})
    await chat(engine, {})

    assert engine.submitted[0].prompt_token_ids == engine.submitted[1].prompt_token_ids


async def test_answer_of_the_official_client_can_be_sent_back():
    """Its message objects carry every field that they know, as null."""
    said = {
        "role": "assistant",
        "content": "hello",
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }

    response = await post_chat(chat_engine(ids("x")), {"messages": [USER, said, USER]})

    assert response.status_code == 200


async def test_max_tokens_is_the_rest_of_the_context_by_default():
    engine = chat_engine(ids("x"))

    await chat(engine, {})

    request = engine.submitted[0]
    assert request.sampling.max_tokens == 400 - len(request.prompt_token_ids)


async def test_many_choices_share_what_one_request_may_have():
    engine = chat_engine(ids("x"))

    await chat(
        engine, {"n": 4}, max_completion_tokens_per_request=100, max_sequences_per_request=100
    )

    assert [r.sampling.max_tokens for r in engine.submitted] == [25] * 4


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_limit_has_an_old_and_a_new_name(name):
    answer = await chat(chat_engine(ids("hello")), {name: 2})

    assert answer["choices"][0]["message"]["content"] == "he"


async def test_two_different_limits_are_refused():
    response = await post_chat(
        chat_engine(ids("hello")), {"max_tokens": 2, "max_completion_tokens": 3}
    )

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "max_completion_tokens"


async def test_choices_come_in_order():
    scripts = iter(["longer", "b", "cc"])

    answer = await chat(chat_engine(lambda r: ids(next(scripts))), {"n": 3})

    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    assert [c["message"]["content"] for c in answer["choices"]] == ["longer", "b", "cc"]


async def test_logprobs_have_bytes_and_alternatives():
    answer = await chat(
        chat_engine(ids("é")), {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    )

    (entry,) = answer["choices"][0]["logprobs"]["content"]
    first = ids("é")[0]
    assert entry["logprob"] == -first / 100
    assert entry["bytes"] == [0xC3]
    assert [t["logprob"] for t in entry["top_logprobs"]] == [-first / 100, -(first + 1) / 100]


async def test_final_message_is_continued_and_echoed():
    engine = chat_engine(ids(" matey"))
    messages = [USER, {"role": "assistant", "content": "Ahoy"}]

    answer = await chat(
        engine,
        {
            "messages": messages,
            "add_generation_prompt": False,
            "continue_final_message": True,
            "echo": True,
        },
    )

    prompt = byte_tokenizer().decode(list(engine.submitted[0].prompt_token_ids))
    assert prompt.endswith("Ahoy")
    assert answer["choices"][0]["message"]["content"] == "Ahoy matey"


async def test_model_without_a_template_says_so():
    async with in_process(fake_app(chat_engine(ids("x")), with_template=False)) as client:
        response = await client.post(
            "/v1/chat/completions", json={"model": MODEL, "messages": [USER]}
        )

    assert response.status_code == 400
    assert "chat template" in response.json()["error"]["message"]


async def test_first_chunk_of_each_choice_has_the_role_and_no_text():
    chunks = await stream_chat(chat_engine(ids("hey")), {"n": 2})

    assert [c["choices"][0]["delta"] for c in chunks[:2]] == [
        {"role": "assistant", "content": ""}
    ] * 2
    assert [c["choices"][0]["index"] for c in chunks[:2]] == [0, 1]
    assert all("role" not in c["choices"][0]["delta"] for c in chunks[2:-1])


async def test_chat_stream_ends_with_a_finish_reason_timings_and_done():
    *chunks, last, done = await stream_chat(chat_engine(ids("hey")), {})

    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "hey"
    assert last["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": None,
    }
    assert last["timings"]["queue_ms"] == 1.5
    assert done == "[DONE]"


async def test_chat_usage_chunk_comes_last():
    chunks = await stream_chat(chat_engine(ids("hey")), {"stream_options": {"include_usage": True}})

    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["completion_tokens"] == 4
    assert chunks[-2]["timings"] is not None
    assert [c["usage"] for c in chunks[:-2]] == [None] * (len(chunks) - 2)


async def test_streamed_logprobs_say_the_same_as_whole_ones():
    body = {"logprobs": True, "top_logprobs": 1}
    whole = await chat(chat_engine(ids("hey")), body)

    chunks = await stream_chat(chat_engine(ids("hey")), body)

    streamed = [
        entry
        for c in chunks[:-1]
        for entry in (c["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == whole["choices"][0]["logprobs"]["content"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{**USER, "colour": "red"}]}, "messages[0].colour"),
        ({"messages": [{**USER, "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}],
                    }
                ]
            },
            "messages[0].content[0].image_url",
        ),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_bad_chat_field_is_named(fields, param):
    engine = chat_engine(ids("x"))

    response = await post_chat(engine, fields)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not engine.submitted


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": None, "tool_choice": None, "functions": None},
        {"response_format": {"type": "text"}},
        {"tool_choice": "auto", "parallel_tool_calls": True},
        {"modalities": ["text"], "audio": None, "store": False, "metadata": {}},
        {"user": "someone", "logit_bias": None},
    ],
)
async def test_unsupported_field_that_asks_for_nothing_is_let_through(fields):
    response = await post_chat(chat_engine(ids("x")), fields)

    assert response.status_code == 200, response.text
