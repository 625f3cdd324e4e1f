"""`POST /v1/completions` with `stream: true`, on a real server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, events, fake_app, ids
from tests.support.live_server import live_server


async def stream(engine: FakeEngine, body: dict[str, Any], **settings: Any) -> list[Any]:
    async with live_server(fake_app(engine, **settings)) as url, httpx.AsyncClient() as client:
        response = await client.post(
            f"{url}/v1/completions", json={"model": MODEL, "stream": True} | body
        )
        assert response.status_code == 200, response.text
        return events(response.text)


async def test_stream_ends_with_a_finish_reason_timings_and_done():
    chunks = await stream(FakeEngine(ids("hey")), {"prompt": "p"})

    *texts, last, done = chunks
    assert [c["choices"][0]["text"] for c in texts] == ["h", "e", "y"]
    assert [c["choices"][0]["finish_reason"] for c in texts] == [None] * 3
    assert [c["timings"] for c in texts] == [None] * 3
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["timings"]["decode_ms"] == 30.0
    assert done == "[DONE]"


async def test_stream_has_one_id_and_no_usage_unless_asked_for():
    chunks = await stream(FakeEngine(ids("hey")), {"prompt": "p"})

    assert len({c["id"] for c in chunks[:-1]}) == 1
    assert {c["usage"] for c in chunks[:-1]} == {None}


async def test_usage_chunk_comes_last_and_has_no_choices():
    chunks = await stream(
        FakeEngine(ids("hey")), {"prompt": "p", "stream_options": {"include_usage": True}}
    )

    *others, last, done = chunks
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert last["timings"] is not None
    assert {(c["usage"], c["timings"]) for c in others} == {(None, None)}


async def test_continuous_usage_counts_up():
    chunks = await stream(
        FakeEngine(ids("hey")),
        {
            "prompt": "p",
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    )

    assert [c["usage"]["completion_tokens"] for c in chunks[:-1]] == [1, 2, 3, 4, 4]


async def test_choices_of_a_stream_are_told_apart_by_index():
    texts = {"p": "first", "q": "2nd"}
    engine = FakeEngine(lambda r: ids(texts["p" if r.prompt_token_ids == tuple(ids("p")) else "q"]))

    chunks = await stream(engine, {"prompt": ["p", "q"], "n": 2})

    joined = dict.fromkeys(range(4), "")
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        joined[choice["index"]] += choice["text"]
    assert joined == {0: "first", 1: "first", 2: "2nd", 3: "2nd"}
    assert sum(c["choices"][0]["finish_reason"] is not None for c in chunks[:-1]) == 4
    assert [c["timings"] is not None for c in chunks[:-1]].index(True) == len(chunks) - 2


@pytest.mark.parametrize("stop", ["two", "b tw", "aab"])
async def test_streamed_text_never_shows_part_of_a_stop_string(stop):
    text = "one aaab two three"
    expected = text[: text.index(stop)]

    chunks = await stream(FakeEngine(ids(text)), {"prompt": "p", "stop": [stop], "max_tokens": 50})

    shown = ""
    for chunk in chunks[:-1]:
        shown += chunk["choices"][0]["text"]
        assert expected.startswith(shown)
    assert shown == expected
    assert chunks[-2]["choices"][0]["stop_reason"] == stop
    assert chunks[-2]["timings"] is not None


async def test_characters_of_many_bytes_come_whole():
    text = "a\u00e9\U0001f600\u2028\u2029\x85z"

    chunks = await stream(FakeEngine(ids(text)), {"prompt": "p", "max_tokens": 50})

    texts = [c["choices"][0]["text"] for c in chunks[:-1]]
    assert "".join(texts) == text
    assert "\ufffd" not in "".join(texts)


async def test_line_separators_are_escaped_on_the_wire():
    engine = FakeEngine(ids("\u2028\u2029\x85\n\n data: [DONE]\r"))
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        response = await client.post(
            f"{url}/v1/completions",
            json={"model": MODEL, "prompt": "p", "stream": True, "max_tokens": 64},
        )

    raw = response.content
    assert b"\r" not in raw
    for character in ("\u2028", "\u2029", "\x85"):
        assert character.encode() not in raw
    assert {block.split(b":")[0] for block in raw.split(b"\n\n") if block} == {b"data"}


async def test_streamed_logprob_offsets_run_on_through_the_chunks():
    chunks = await stream(
        FakeEngine(ids("hi!")), {"prompt": "ab", "logprobs": 0, "echo": True, "max_tokens": 3}
    )

    offsets = [offset for c in chunks[:-1] for offset in c["choices"][0]["logprobs"]["text_offset"]]
    assert offsets == [0, 1, 2, 3, 4]
    assert "".join(c["choices"][0]["text"] for c in chunks[:-1]) == "abhi!"


async def test_token_ids_are_streamed_when_asked_for():
    chunks = await stream(
        FakeEngine(ids("é")), {"prompt": "p", "return_token_ids": True, "max_tokens": 2}
    )

    assert [c["choices"][0]["token_ids"] for c in chunks[:-1]] == [[i] for i in ids("é")]
    assert chunks[0]["choices"][0]["prompt_token_ids"] == ids("p")
    assert chunks[1]["choices"][0]["prompt_token_ids"] is None


async def test_failed_sequence_ends_a_stream_with_one_error_and_no_done():
    engine = FakeEngine(ids("hello"))
    engine.fail_after = 2

    chunks = await stream(engine, {"prompt": "p", "n": 2})

    assert "[DONE]" not in chunks
    assert chunks[-1] == {
        "error": {
            "message": "Generation failed: the row's logits were not finite",
            "type": "server_error",
            "param": None,
            "code": "generation_failed",
        }
    }
    assert all("choices" in chunk for chunk in chunks[:-1])
    assert engine.num_open == 0


async def test_sequence_that_the_server_ends_is_no_clean_end():
    engine = FakeEngine(ids("hello"))
    engine.end_after = 3

    chunks = await stream(engine, {"prompt": "p"})

    assert chunks[-1]["error"]["code"] == "ended_by_server"
    assert {c["choices"][0]["finish_reason"] for c in chunks[:-1]} == {None}


async def test_silent_stream_gets_comments():
    engine = FakeEngine(ids("hey"))
    engine.hold()
    app = fake_app(engine, keep_alive_s=0.01)
    body = {"model": MODEL, "prompt": "p", "stream": True}

    async with (
        live_server(app) as url,
        httpx.AsyncClient() as client,
        client.stream("POST", f"{url}/v1/completions", json=body) as response,
    ):
        received = response.aiter_bytes()
        first = await anext(received)
        await engine.release()
        rest = b"".join([chunk async for chunk in received])

    assert first.startswith(b": keep-alive\n\n")
    assert rest.endswith(b"data: [DONE]\n\n")
    assert events((first + rest).decode())[-1] == "[DONE]"


async def test_tokens_leave_as_they_come():
    engine = FakeEngine(ids("hey"))
    engine.hold()
    body = {"model": MODEL, "prompt": "p", "stream": True}

    async with (
        live_server(fake_app(engine)) as url,
        httpx.AsyncClient() as client,
        client.stream("POST", f"{url}/v1/completions", json=body) as response,
    ):
        received = response.aiter_bytes()
        await engine.step()
        first = await anext(received)
        await engine.step()
        second = await anext(received)
        await engine.release()

    assert events(first.decode())[0]["choices"][0]["text"] == "h"
    assert events(second.decode())[0]["choices"][0]["text"] == "e"
