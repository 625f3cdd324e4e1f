"""The unmodified `openai` package, sync and async, against our server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from tests.support.compat_server import (
    ADAPTER,
    ADAPTER_TEXT,
    BASE_TEXT,
    MODEL,
    CompatServer,
    compat_server,
)

QUESTION: Any = [{"role": "user", "content": "who are you?"}]


@pytest_asyncio.fixture
async def client(server: CompatServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_completion(client: AsyncOpenAI) -> None:
    completion = await client.completions.create(model=MODEL, prompt="the dog", max_tokens=200)

    assert completion.choices[0].text == BASE_TEXT
    assert completion.choices[0].finish_reason == "stop"
    assert completion.object == "text_completion"
    assert completion.model == MODEL
    assert completion.usage is not None
    assert completion.usage.total_tokens == (
        completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


async def test_adapter_is_chosen_by_model_and_by_adapter_id(client: AsyncOpenAI) -> None:
    by_model = await client.completions.create(model=ADAPTER, prompt="hi", max_tokens=200)
    by_field = await client.completions.create(
        model=MODEL, prompt="hi", max_tokens=200, extra_body={"adapter_id": ADAPTER}
    )

    assert by_model.choices[0].text == by_field.choices[0].text == ADAPTER_TEXT


async def test_list_of_prompts_is_answered_in_order(
    client: AsyncOpenAI, server: CompatServer
) -> None:
    prompts = ["the dog", "the old fox", "you"]
    completion = await client.completions.create(model=MODEL, prompt=prompts, max_tokens=200, n=2)

    assert [choice.index for choice in completion.choices] == list(range(6))
    assert {choice.text for choice in completion.choices} == {BASE_TEXT}
    sent = [list(request.prompt_token_ids) for request in server.engine.submitted]
    assert sent == [server.tokenizer.encode(prompt) for prompt in prompts for _ in range(2)]


async def test_prompts_may_be_token_ids(client: AsyncOpenAI, server: CompatServer) -> None:
    one = await client.completions.create(model=MODEL, prompt=[5, 6, 7], max_tokens=2)
    two = await client.completions.create(model=MODEL, prompt=[[5, 6], [7]], max_tokens=2)

    assert [len(one.choices), len(two.choices)] == [1, 2]
    sent = [request.prompt_token_ids for request in server.engine.submitted]
    assert sent == [(5, 6, 7), (5, 6), (7,)]


async def test_streamed_completion_is_the_same_text(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model=MODEL,
        prompt="the dog",
        max_tokens=200,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    choices = [choice for chunk in chunks for choice in chunk.choices]

    assert "".join(choice.text for choice in choices) == BASE_TEXT
    assert choices[-1].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_chat(client: AsyncOpenAI, server: CompatServer) -> None:
    chat = await client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=200)

    assert chat.choices[0].message.content == BASE_TEXT
    assert chat.choices[0].message.role == "assistant"
    assert chat.object == "chat.completion"
    prompt = server.tokenizer.decode(
        list(server.engine.submitted[0].prompt_token_ids), skip_special_tokens=False
    )
    assert prompt.endswith("<|im_start|>user\nwho are you?<|im_end|>\n<|im_start|>assistant\n")


async def test_streamed_chat_begins_with_the_role(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=ADAPTER, messages=QUESTION, max_completion_tokens=200, stream=True, n=2
    )
    chunks = [chunk async for chunk in stream]
    choices = [choice for chunk in chunks for choice in chunk.choices]

    for index in range(2):
        own = [choice for choice in choices if choice.index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == ADAPTER_TEXT
        assert own[-1].finish_reason == "stop"


async def test_stream_manager_of_the_package_puts_a_chat_together(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=QUESTION) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()

    assert "content.done" in kinds
    assert final.choices[0].message.content == BASE_TEXT


@pytest.mark.parametrize("stop", ["END", ["never", " brown"], "👋"])
async def test_stop_strings_end_the_text(client: AsyncOpenAI, stop: str | list[str]) -> None:
    found = stop if isinstance(stop, str) else stop[-1]
    expected = BASE_TEXT.partition(found)[0]

    whole = await client.completions.create(model=MODEL, prompt="a", max_tokens=200, stop=stop)
    stream = await client.completions.create(
        model=MODEL, prompt="a", max_tokens=200, stop=stop, stream=True
    )
    streamed = [choice async for chunk in stream for choice in chunk.choices]

    assert whole.choices[0].text == expected
    assert "".join(choice.text for choice in streamed) == expected
    assert whole.choices[0].finish_reason == streamed[-1].finish_reason == "stop"


async def test_length_is_a_finish_reason(client: AsyncOpenAI) -> None:
    completion = await client.completions.create(model=MODEL, prompt="a", max_tokens=3)

    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3


async def test_logprobs_of_a_completion(client: AsyncOpenAI) -> None:
    completion = await client.completions.create(
        model=MODEL, prompt="the dog", max_tokens=4, logprobs=2, echo=True
    )
    choice = completion.choices[0]
    logprobs = choice.logprobs

    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert "".join(logprobs.tokens) == choice.text
    assert choice.text.startswith("the dog")
    assert logprobs.token_logprobs[0] is None
    assert len(logprobs.top_logprobs) == len(logprobs.tokens)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert choice.text[offset:].startswith(token)


async def test_logprobs_of_a_chat(client: AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = chat.choices[0].logprobs

    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 5
    assert all(len(entry.top_logprobs) == 3 for entry in logprobs.content)
    joined = b"".join(bytes(entry.bytes or ()) for entry in logprobs.content)
    assert joined.decode() == chat.choices[0].message.content


async def test_models_are_the_base_and_its_adapters(client: AsyncOpenAI) -> None:
    models = {model.id: model async for model in client.models.list()}

    assert list(models) == [MODEL, ADAPTER]
    assert getattr(models[ADAPTER], "parent", None) == MODEL
    assert (await client.models.retrieve(ADAPTER)).id == ADAPTER


def test_sync_client_generates_and_streams() -> None:
    def use(url: str) -> tuple[str, str, list[str]]:
        with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            chat = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=200)
            stream = client.completions.create(
                model=ADAPTER, prompt="a", max_tokens=200, stream=True
            )
            text = "".join(choice.text for chunk in stream for choice in chunk.choices)
            return chat.choices[0].message.content or "", text, [m.id for m in client.models.list()]

    async def serve() -> tuple[str, str, list[str]]:
        async with compat_server() as server:
            return await asyncio.to_thread(use, server.url)

    assert asyncio.run(serve()) == (BASE_TEXT, ADAPTER_TEXT, [MODEL, ADAPTER])


Call = Callable[[AsyncOpenAI], Any]
WRONG_CALLS: list[tuple[Call, type[openai.APIStatusError], str]] = [
    (
        lambda client: client.completions.create(model="ghost", prompt="a"),
        openai.NotFoundError,
        "ghost",
    ),
    (
        lambda client: client.chat.completions.create(
            model=MODEL, messages=QUESTION, extra_body={"adapter_id": "ghost"}
        ),
        openai.NotFoundError,
        "ghost",
    ),
    (
        lambda client: client.completions.create(model=MODEL, prompt="a", temperature=5),
        openai.BadRequestError,
        "temperature",
    ),
    (
        lambda client: client.completions.create(
            model=MODEL, prompt="a", extra_body={"temprature": 1}
        ),
        openai.BadRequestError,
        "temprature",
    ),
    (
        lambda client: client.completions.create(model=MODEL, prompt=""),
        openai.BadRequestError,
        "prompt",
    ),
    (
        lambda client: client.completions.create(model=MODEL, prompt="a " * 3000),
        openai.BadRequestError,
        "context",
    ),
    (
        lambda client: client.chat.completions.create(model=MODEL, messages=[]),
        openai.BadRequestError,
        "messages",
    ),
    (
        lambda client: client.chat.completions.create(
            model=MODEL,
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/"}}],
                }
            ],
        ),
        openai.BadRequestError,
        "image_url",
    ),
    (
        lambda client: client.chat.completions.create(
            model=MODEL, messages=QUESTION, extra_body={"chat_template": "{{ 1 }}"}
        ),
        openai.BadRequestError,
        "chat_template",
    ),
    (
        lambda client: client.embeddings.create(model=MODEL, input="a"),
        openai.NotFoundError,
        "route",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "word"), WRONG_CALLS, ids=[word for _, _, word in WRONG_CALLS]
)
async def test_wrong_call_raises_the_right_exception(
    client: AsyncOpenAI, call: Call, kind: type[openai.APIStatusError], word: str
) -> None:
    with pytest.raises(kind) as caught:
        await call(client)

    assert type(caught.value) is kind
    assert word in caught.value.message
    assert caught.value.body is not None


@pytest.mark.parametrize("key", ["wrong", "secre"])
async def test_wrong_key_is_an_authentication_error(key: str) -> None:
    async with (
        compat_server(api_keys=("secret",)) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client,
    ):
        with pytest.raises(openai.AuthenticationError):
            await client.completions.create(model=MODEL, prompt="a")

        right = client.with_options(api_key="secret")
        assert (await right.completions.create(model=MODEL, prompt="a")).choices


async def test_full_server_is_an_internal_server_error_with_a_time_to_come_again(
    client: AsyncOpenAI, server: CompatServer
) -> None:
    server.engine.num_refusals = 1

    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(model=MODEL, prompt="a")

    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) >= 1


async def test_client_comes_again_by_itself_when_the_server_was_full(
    client: AsyncOpenAI, server: CompatServer
) -> None:
    server.engine.num_refusals = 2

    completion = await client.with_options(max_retries=2).completions.create(
        model=MODEL, prompt="a", max_tokens=200
    )

    assert completion.choices[0].text == BASE_TEXT
    assert server.engine.num_calls == 3


async def test_failure_inside_a_stream_raises(client: AsyncOpenAI, server: CompatServer) -> None:
    server.engine.fail_after = 3
    stream = await client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=200, stream=True
    )
    texts: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            texts.extend(choice.delta.content or "" for choice in chunk.choices)

    with pytest.raises(openai.APIError) as caught:
        await read()

    text = "".join(texts)
    assert BASE_TEXT.startswith(text)
    assert text
    assert "finite" in caught.value.message


async def test_failure_of_a_whole_answer_is_not_sent_again(
    client: AsyncOpenAI, server: CompatServer
) -> None:
    server.engine.fail_after = 3

    with pytest.raises(openai.InternalServerError):
        await client.with_options(max_retries=2).completions.create(model=MODEL, prompt="a")

    assert server.engine.num_calls == 1


async def test_leaving_a_stream_ends_the_sequence(
    client: AsyncOpenAI, server: CompatServer
) -> None:
    server.engine.hold()
    await server.engine.step()
    stream = await client.completions.create(model=MODEL, prompt="a", max_tokens=200, stream=True)
    await anext(aiter(stream))
    await stream.close()

    await server.engine.wait_for(lambda: server.engine.num_open == 0)

    assert len(server.engine.aborted) == 1
