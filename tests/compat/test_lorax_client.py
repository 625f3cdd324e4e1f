"""The unmodified `lorax-client` 0.6.3 and `text-generation` 0.7.0 against our server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.compat_server import ADAPTER, ADAPTER_TEXT, BASE_TEXT, CompatServer
from tests.support.lorax_family import Call, LoraxFamilySession


@pytest.fixture(scope="module")
def lorax() -> Iterator[LoraxFamilySession]:
    with LoraxFamilySession("lorax") as session:
        yield session


@pytest.fixture(scope="module")
def text_generation() -> Iterator[LoraxFamilySession]:
    with LoraxFamilySession("text_generation") as session:
        yield session


@pytest.fixture(params=["lorax", "text_generation"])
def session(
    request: pytest.FixtureRequest,
    lorax: LoraxFamilySession,
    text_generation: LoraxFamilySession,
) -> LoraxFamilySession:
    return {"lorax": lorax, "text_generation": text_generation}[request.param]


def generate(prompt: str = "the dog", **options: Any) -> Call:
    return "generate", {"prompt": prompt, "max_new_tokens": 200, **options}


async def test_generates_and_streams(server: CompatServer, session: LoraxFamilySession) -> None:
    stream: Call = ("generate_stream", generate()[1])
    answers = await session.call(
        server.url,
        generate(),
        generate(decoder_input_details=True, stop_sequences=[" fox", "never"]),
        generate(max_new_tokens=3, return_full_text=True),
        stream,
        ("async.generate", generate()[1]),
        ("async.generate_stream", stream[1]),
    )
    whole, stopped, cut, events, async_whole, async_events = [a.get("result") for a in answers]

    assert whole == async_whole
    assert whole["generated_text"] == BASE_TEXT
    assert whole["details"]["finish_reason"] == "eos_token"
    tokens = whole["details"]["tokens"]
    assert whole["details"]["generated_tokens"] == len(tokens)
    assert "".join(token["text"] for token in tokens if not token["special"]) == BASE_TEXT

    assert stopped["generated_text"] == "the quick brown fox"
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    prefill = [token["id"] for token in stopped["details"]["prefill"]]
    assert prefill == server.tokenizer.encode("the dog")

    assert cut["generated_text"].startswith("the dog")
    assert cut["details"]["finish_reason"] == "length"

    assert events == async_events
    assert [event["token"] for event in events] == [*tokens]
    assert [event["generated_text"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["generated_text"] == BASE_TEXT
    assert events[-1]["details"]["finish_reason"] == "eos_token"


async def test_lorax_client_chooses_an_adapter(
    server: CompatServer, lorax: LoraxFamilySession
) -> None:
    options = generate(adapter_id=ADAPTER)[1]
    answers = await lorax.call(
        server.url,
        ("generate", options),
        ("generate_stream", options),
        generate(adapter_id="__base_model__"),
        generate(adapter_id=ADAPTER, adapter_source="local"),
    )
    whole, events, base, local = [answer["result"] for answer in answers]

    assert whole["generated_text"] == local["generated_text"] == ADAPTER_TEXT
    assert events[-1]["generated_text"] == ADAPTER_TEXT
    assert base["generated_text"] == BASE_TEXT


async def test_lorax_client_sends_every_sampling_parameter(
    server: CompatServer, lorax: LoraxFamilySession
) -> None:
    (answer,) = await lorax.call(
        server.url,
        generate(
            do_sample=True,
            temperature=0.7,
            top_k=40,
            top_p=0.9,
            typical_p=0.8,
            repetition_penalty=1.2,
            seed=11,
            ignore_eos_token=True,
            truncate=1,
            return_k_alternatives=2,
            max_new_tokens=5,
        ),
    )
    request = server.engine.submitted[0]
    sampling = request.sampling

    assert answer["result"]["details"]["seed"] == 11
    assert len(answer["result"]["details"]["tokens"][0]["alternative_tokens"]) == 2
    assert request.prompt_token_ids == tuple(server.tokenizer.encode("the dog")[-1:])
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 40, 0.9)
    assert (sampling.typical_p, sampling.repetition_penalty) == (0.8, 1.2)
    assert (sampling.seed, sampling.ignore_eos, sampling.max_tokens) == (11, True, 5)


async def test_text_generation_client_sends_every_sampling_parameter(
    server: CompatServer, text_generation: LoraxFamilySession
) -> None:
    (answer,) = await text_generation.call(
        server.url,
        generate(
            do_sample=True,
            temperature=0.7,
            top_k=40,
            top_p=0.9,
            typical_p=0.8,
            repetition_penalty=1.2,
            frequency_penalty=0.5,
            seed=11,
            top_n_tokens=3,
            max_new_tokens=5,
        ),
    )
    sampling = server.engine.submitted[0].sampling

    assert [len(tokens) for tokens in answer["result"]["details"]["top_tokens"]] == [3] * 5
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 40, 0.9)
    assert (sampling.repetition_penalty, sampling.frequency_penalty) == (1.2, 0.5)


async def test_text_generation_client_chats(
    server: CompatServer, text_generation: LoraxFamilySession
) -> None:
    question = {"messages": [{"role": "user", "content": "who are you?"}], "max_tokens": 200}
    (answer,) = await text_generation.call(server.url, ("chat", question))

    assert answer["result"]["choices"][0]["message"]["content"] == BASE_TEXT


async def test_wrong_parameters_raise_validation_errors(
    server: CompatServer, session: LoraxFamilySession
) -> None:
    answers = await session.call(
        server.url,
        generate(max_new_tokens=5000),
        generate(prompt="a " * 3000),
        generate(stop_sequences=["a", "b", "c", "d", "e"]),
        ("generate_stream", {"prompt": "a", "max_new_tokens": 5000}),
        ("async.generate", {"prompt": "a", "max_new_tokens": 5000}),
    )

    assert [answer.get("error") for answer in answers] == ["ValidationError"] * 5
    assert all(answer["message"].startswith("Input validation error: ") for answer in answers)
    assert "Given: 5 " in answers[2]["message"] + " "


async def test_full_server_raises_an_overloaded_error(
    server: CompatServer, session: LoraxFamilySession
) -> None:
    server.engine.num_refusals = 3
    answers = await session.call(
        server.url,
        generate(),
        ("generate_stream", generate()[1]),
        ("async.generate", generate()[1]),
    )

    assert answers == [{"error": "OverloadedError", "message": "Model is overloaded"}] * 3


async def test_failed_generation_raises_a_generation_error(
    server: CompatServer, session: LoraxFamilySession
) -> None:
    server.engine.fail_after = 3
    answers = await session.call(
        server.url,
        generate(),
        ("generate_stream", generate()[1]),
        ("async.generate_stream", generate()[1]),
    )

    assert [answer["error"] for answer in answers] == ["GenerationError"] * 3
    assert all("finite" in answer["message"] for answer in answers)


async def test_generation_that_the_server_ends_raises_an_incomplete_generation_error(
    server: CompatServer, session: LoraxFamilySession
) -> None:
    server.engine.end_after = 3
    answers = await session.call(server.url, generate(), ("generate_stream", generate()[1]))

    assert [answer["error"] for answer in answers] == ["IncompleteGenerationError"] * 2


async def test_adapter_that_is_not_loaded_raises_a_generation_error(
    server: CompatServer, lorax: LoraxFamilySession
) -> None:
    (answer,) = await lorax.call(server.url, generate(adapter_id="ghost"))

    assert answer["error"] == "GenerationError"
    assert "ghost" in answer["message"]
