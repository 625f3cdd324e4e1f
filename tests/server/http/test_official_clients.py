"""The unmodified clients of OpenAI and Hugging Face, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import GenerationError, OverloadedError, ValidationError

from lorry_server.errors import QueueFullError
from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.http_app import MODEL, fake_app, ids
from tests.support.live_server import live_server

MESSAGES = [{"role": "user", "content": "hi"}]


def engine() -> FakeEngine:
    return FakeEngine(ids("ahoy"), info=fake_info(max_model_len=400), adapters=["sql"])


@asynccontextmanager
async def openai_client(engine: FakeEngine, **settings) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        live_server(fake_app(engine, **settings)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as client,
    ):
        yield client


async def test_openai_chats_and_sends_the_answer_back():
    async with openai_client(engine()) as client:
        first = await client.chat.completions.create(model="sql", messages=MESSAGES)
        again = await client.chat.completions.create(
            model="sql", messages=[*MESSAGES, first.choices[0].message, *MESSAGES]
        )

    assert first.choices[0].message.content == again.choices[0].message.content == "ahoy"
    assert first.model == "sql"
    assert first.usage.completion_tokens == 5


async def test_openai_streams_a_chat():
    async with openai_client(engine()) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "ahoy"
    assert chunks[-1].usage.completion_tokens == 5


async def test_openai_completes_several_prompts_with_logprobs():
    async with openai_client(engine()) as client:
        answer = await client.completions.create(
            model=MODEL, prompt=["a", "b"], logprobs=1, echo=True, extra_body={"min_p": 0.1}
        )

    assert [choice.text for choice in answer.choices] == ["aahoy", "bahoy"]
    assert answer.choices[0].logprobs.text_offset[:3] == [0, 1, 2]


async def test_openai_lists_models():
    async with openai_client(engine()) as client:
        models = [model.id async for model in client.models.list()]

    assert models == [MODEL, "sql"]


@pytest.mark.parametrize(
    ("fields", "settings", "error"),
    [
        ({"model": "nobody"}, {}, openai.NotFoundError),
        ({"temperature": 3}, {}, openai.BadRequestError),
        ({}, {"api_keys": ("another",)}, openai.AuthenticationError),
    ],
)
async def test_openai_raises_the_right_error(fields, settings, error):
    async with openai_client(engine(), **settings) as client:
        with pytest.raises(error):
            await client.completions.create(**({"model": MODEL, "prompt": "p"} | fields))


async def test_openai_raises_a_failure_in_the_middle_of_a_stream():
    failing = engine()
    failing.fail_after = 2
    async with openai_client(failing) as client:
        stream = await client.completions.create(model=MODEL, prompt="p", stream=True)

        with pytest.raises(openai.APIError, match="not finite"):
            [chunk async for chunk in stream]


async def test_openai_tries_again_when_the_server_says_when():
    busy = engine()
    busy.refusal = QueueFullError("full", retry_after_s=0.001)
    async with openai_client(busy) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            await client.completions.create(model=MODEL, prompt="p")

    assert raised.value.response.headers["x-should-retry"] == "true"
    assert raised.value.status_code == 503


@asynccontextmanager
async def inference_client(engine: FakeEngine) -> AsyncIterator[AsyncInferenceClient]:
    async with (
        live_server(fake_app(engine)) as url,
        AsyncInferenceClient(base_url=url, api_key="key") as client,
    ):
        yield client


async def test_inference_client_generates_with_details():
    async with inference_client(engine()) as client:
        answer = await client.text_generation(
            "p", details=True, adapter_id="sql", decoder_input_details=True, max_new_tokens=9
        )

    assert answer.generated_text == "ahoy"
    assert answer.details.finish_reason == "eos_token"
    assert [token.text for token in answer.details.prefill] == ["p"]


async def test_inference_client_streams():
    async with inference_client(engine()) as client:
        stream = await client.text_generation("p", details=True, stream=True, top_n_tokens=1)
        tokens = [token async for token in stream]

    assert "".join(t.token.text for t in tokens if not t.token.special) == "ahoy"
    assert tokens[-1].generated_text == "ahoy"
    assert tokens[0].top_tokens[0].text == "a"


async def test_inference_client_chats():
    async with inference_client(engine()) as client:
        answer = await client.chat_completion(MESSAGES, model=None, max_tokens=10)

    assert answer.choices[0].message.content == "ahoy"


@pytest.mark.parametrize(
    ("parameters", "error"),
    [({"temperature": -1.0}, ValidationError), ({"adapter_id": "nobody"}, GenerationError)],
)
async def test_inference_client_raises_the_right_error(parameters, error):
    async with inference_client(engine()) as client:
        with pytest.raises(error):
            await client.text_generation("p", **parameters)


async def test_inference_client_knows_an_overloaded_server():
    busy = engine()
    busy.refusal = QueueFullError("full", retry_after_s=1.0)
    async with inference_client(busy) as client:
        with pytest.raises(OverloadedError):
            await client.text_generation("p")
