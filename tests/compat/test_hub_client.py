"""The unmodified `huggingface_hub` clients, sync and async, against our server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import (
    GenerationError,
    HfHubHTTPError,
    OverloadedError,
    TextGenerationError,
    ValidationError,
)

from tests.support.compat_server import (
    ADAPTER,
    ADAPTER_TEXT,
    BASE_TEXT,
    CompatServer,
    compat_server,
)

QUESTION: list[Any] = [{"role": "user", "content": "who are you?"}]


@pytest_asyncio.fixture
async def client(server: CompatServer) -> AsyncIterator[AsyncInferenceClient]:
    async with AsyncInferenceClient(base_url=server.url) as client:
        yield client


async def test_text_generation(client: AsyncInferenceClient) -> None:
    assert await client.text_generation("the dog", max_new_tokens=200) == BASE_TEXT


async def test_adapter_id_chooses_the_adapter(client: AsyncInferenceClient) -> None:
    text = await client.text_generation("the dog", max_new_tokens=200, adapter_id=ADAPTER)

    assert text == ADAPTER_TEXT


async def test_details(client: AsyncInferenceClient, server: CompatServer) -> None:
    output = await client.text_generation(
        "the dog", max_new_tokens=200, details=True, decoder_input_details=True, top_n_tokens=2
    )

    assert output.generated_text == BASE_TEXT
    assert output.details is not None
    assert output.details.finish_reason == "eos_token"
    assert output.details.generated_tokens == len(output.details.tokens)
    prompt = server.tokenizer.encode("the dog")
    assert [token.id for token in output.details.prefill] == prompt
    assert output.details.top_tokens is not None
    assert {len(tokens) for tokens in output.details.top_tokens} == {2}
    text = "".join(token.text for token in output.details.tokens if not token.special)
    assert text == BASE_TEXT


async def test_stream(client: AsyncInferenceClient) -> None:
    stream = await client.text_generation("the dog", max_new_tokens=200, stream=True, details=True)
    events = [event async for event in stream]

    assert [event.index for event in events] == list(range(1, len(events) + 1))
    assert "".join(event.token.text for event in events if not event.token.special) == BASE_TEXT
    assert events[-1].generated_text == BASE_TEXT
    assert events[-1].details is not None
    assert events[-1].details.generated_tokens == len(events)
    assert all(event.generated_text is None for event in events[:-1])


async def test_stop_and_full_text(client: AsyncInferenceClient) -> None:
    text = await client.text_generation(
        "the dog", max_new_tokens=200, stop=[" fox"], return_full_text=True
    )

    assert text == "the dogthe quick brown fox"


async def test_chat_completion(client: AsyncInferenceClient) -> None:
    chat = await client.chat_completion(QUESTION, max_tokens=200)

    assert chat.choices[0].message.content == BASE_TEXT
    assert chat.choices[0].finish_reason == "stop"


async def test_streamed_chat_completion(client: AsyncInferenceClient) -> None:
    stream = await client.chat_completion(QUESTION, max_tokens=200, model=ADAPTER, stream=True)
    text = "".join([c.delta.content or "" async for chunk in stream for c in chunk.choices])

    assert text == ADAPTER_TEXT


def test_sync_client_generates_and_streams() -> None:
    def use(url: str) -> list[str]:
        client = InferenceClient(base_url=url)
        chat = client.chat_completion(QUESTION, max_tokens=200)
        stream = client.text_generation("the dog", max_new_tokens=200, stream=True)
        return [
            client.text_generation("the dog", max_new_tokens=200, adapter_id=ADAPTER),
            chat.choices[0].message.content or "",
            "".join(stream),
        ]

    async def serve() -> list[str]:
        async with compat_server() as server:
            return await asyncio.to_thread(use, server.url)

    # without details this client shows the end token too, as it does with TGI
    assert asyncio.run(serve()) == [ADAPTER_TEXT, BASE_TEXT, f"{BASE_TEXT}<|im_end|>"]


@pytest.mark.parametrize(
    ("parameters", "kind", "sentence"),
    [
        ({"top_k": -1}, ValidationError, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 5000}, ValidationError, "`max_new_tokens`"),
        ({"adapter_id": "ghost"}, GenerationError, "ghost"),
    ],
)
async def test_wrong_parameter_raises_the_right_exception(
    client: AsyncInferenceClient,
    parameters: dict[str, Any],
    kind: type[TextGenerationError],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        await client.text_generation("the dog", **parameters)


async def test_full_server_is_an_overloaded_error(
    client: AsyncInferenceClient, server: CompatServer
) -> None:
    server.engine.num_refusals = 1

    with pytest.raises(OverloadedError):
        await client.text_generation("the dog")


async def test_failure_inside_a_stream_raises(
    client: AsyncInferenceClient, server: CompatServer
) -> None:
    server.engine.fail_after = 3
    stream = await client.text_generation("the dog", stream=True)
    texts: list[str] = []

    async def read() -> None:
        async for text in stream:
            texts.append(text)

    with pytest.raises(GenerationError):
        await read()

    assert BASE_TEXT.startswith("".join(texts))
    assert texts


async def test_unknown_model_of_a_chat_is_a_404(client: AsyncInferenceClient) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        await client.chat_completion(QUESTION, model="ghost")

    assert caught.value.response.status_code == 404
