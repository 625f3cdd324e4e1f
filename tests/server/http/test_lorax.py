"""LoRAX's and TGI's native routes."""

from __future__ import annotations

import pytest

from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.http_app import EOS, fake_app, ids, in_process
from tests.support.lorax_calls import generate, post, stream


async def test_answer_is_text_alone_without_details():
    answer = await generate(FakeEngine(ids("hi")))

    assert answer.pop("timings")["steps"] == 3
    assert answer == {"generated_text": "hi"}


async def test_details_are_the_union_of_both_servers():
    answer = await generate(FakeEngine(ids("h")), {"details": True})

    h = ids("h")[0]
    assert answer["details"] == {
        "finish_reason": "eos_token",
        "prompt_tokens": 3,
        "input_length": 3,
        "generated_tokens": 2,
        "skipped_tokens": 0,
        "seed": None,
        "prefill": [],
        "tokens": [
            {"id": h, "text": "h", "logprob": -h / 100, "special": False, "skipped": False},
            {
                "id": EOS,
                "text": "<|im_end|>",
                "logprob": -EOS / 100,
                "special": True,
                "skipped": False,
            },
        ],
    }


async def test_decoder_input_details_turn_on_details_and_fill_prefill():
    answer = await generate(FakeEngine(ids("h")), {"decoder_input_details": True})

    a, b, c = ids("abc")
    assert answer["details"]["prefill"] == [
        {"id": a, "text": "a", "logprob": None},
        {"id": b, "text": "b", "logprob": -b / 100},
        {"id": c, "text": "c", "logprob": -c / 100},
    ]


async def test_alternatives_and_top_tokens_are_the_best_of_each_position():
    answer = await generate(
        FakeEngine(ids("h")),
        {"details": True, "return_k_alternatives": 1, "top_n_tokens": 2, "max_new_tokens": 1},
    )

    (token,) = answer["details"]["tokens"]
    (top,) = answer["details"]["top_tokens"]
    assert [t["text"] for t in token["alternative_tokens"]] == ["h"]
    assert [t["text"] for t in top] == ["h", "i"]


async def test_root_answers_with_a_list_of_one():
    response = await post(FakeEngine(ids("hi")), "/", {"inputs": "abc"})

    (answer,) = response.json()
    assert answer["generated_text"] == "hi"


@pytest.mark.parametrize(("path", "extra"), [("/generate_stream", {}), ("/", {"stream": True})])
async def test_stream_has_one_event_a_token_and_no_end_mark(path, extra):
    received = await stream(FakeEngine(ids("hi")), path, {"inputs": "abc"} | extra)

    assert [e["index"] for e in received] == [1, 2, 3]
    assert [e["token"]["text"] for e in received] == ["h", "i", "<|im_end|>"]
    assert [e["token"]["special"] for e in received] == [False, False, True]
    assert all(isinstance(e["token"]["logprob"], float) for e in received)
    assert all(e["token"]["skipped"] is False for e in received)
    assert [(e["generated_text"], e["details"]) for e in received[:-1]] == [(None, None)] * 2
    assert received[-1]["generated_text"] == "hi"
    assert received[-1]["details"] == {
        "finish_reason": "eos_token",
        "prompt_tokens": 3,
        "input_length": 3,
        "generated_tokens": 3,
        "seed": None,
    }
    assert received[-1]["timings"]["decode_ms"] == 30.0


async def test_stop_sequence_stays_in_the_text_and_is_named_as_the_reason():
    parameters = {"stop": ["two"], "details": True}

    answer = await generate(FakeEngine(ids("one two three")), parameters)
    received = await stream(
        FakeEngine(ids("one two three")),
        "/generate_stream",
        {"inputs": "abc", "parameters": parameters},
    )

    assert answer["generated_text"] == "one two"
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert answer["details"]["generated_tokens"] == 7
    assert "".join(e["token"]["text"] for e in received) == "one two"
    assert received[-1]["generated_text"] == "one two"
    assert received[-1]["details"]["finish_reason"] == "stop_sequence"


async def test_streamed_token_texts_make_up_the_text_of_many_byte_characters():
    received = await stream(FakeEngine(ids("é\U0001f600!")), "/generate_stream", {"inputs": "abc"})

    assert "".join(e["token"]["text"] for e in received[:-1]) == "é\U0001f600!"


async def test_full_text_begins_with_the_inputs():
    answer = await generate(FakeEngine(ids("hi")), {"return_full_text": True})

    assert answer["generated_text"] == "abchi"


async def test_best_of_ranks_by_mean_logprob_and_keeps_the_others():
    scripts = iter(["zz", "aa"])
    engine = FakeEngine(lambda r: ids(next(scripts)))

    answer = await generate(
        engine, {"best_of": 2, "do_sample": True, "details": True, "max_new_tokens": 2}
    )

    assert answer["generated_text"] == "aa"
    (other,) = answer["details"]["best_of_sequences"]
    assert other["generated_text"] == "zz"
    seeds = [r.sampling.seed for r in engine.submitted]
    assert [other["seed"], answer["details"]["seed"]] == seeds
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": False, "temperature": 1.0}, 0.0),
        ({"top_p": 1.0}, 0.0),
        ({"do_sample": True, "temperature": 0}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.7}, 0.7),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.9}, 1.0),
        ({"typical_p": 0.9}, 1.0),
    ],
)
async def test_tokens_are_drawn_only_when_a_parameter_asks_for_it(parameters, temperature):
    engine = FakeEngine(ids("x"))

    await generate(engine, parameters)

    assert engine.submitted[0].sampling.temperature == temperature


async def test_every_parameter_reaches_the_engine():
    engine = FakeEngine(ids("x"), adapters=["sql"])

    await generate(
        engine,
        {
            "adapter_id": "sql",
            "adapter_source": "hub",
            "temperature": 0.5,
            "top_k": 3,
            "top_p": 0.8,
            "typical_p": 0.7,
            "repetition_penalty": 1.2,
            "frequency_penalty": 0.1,
            "presence_penalty": -0.1,
            "max_new_tokens": 5,
            "ignore_eos_token": True,
            "seed": 2**64 - 1,
            "truncate": 2,
            "details": True,
        },
    )

    request = engine.submitted[0]
    sampling = request.sampling
    assert request.adapter == "digest-of-sql"
    assert list(request.prompt_token_ids) == ids("bc")
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 3, 0.8)
    assert (sampling.typical_p, sampling.max_tokens, sampling.ignore_eos) == (0.7, 5, True)
    assert sampling.repetition_penalty == 1.2
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.1, -0.1)
    assert 0 <= sampling.seed < 2**63


async def test_max_new_tokens_is_the_rest_of_the_context_by_default():
    engine = FakeEngine(ids("x"))

    await generate(engine)

    assert engine.submitted[0].sampling.max_tokens == 125


async def test_null_parameters_are_the_defaults():
    """The official clients send every parameter."""
    names = [
        "adapter_id", "adapter_source", "merged_adapters", "api_token", "best_of", "temperature",
        "repetition_penalty", "frequency_penalty", "presence_penalty", "top_k", "top_p",
        "typical_p", "do_sample", "max_new_tokens", "ignore_eos_token", "return_full_text", "stop",
        "truncate", "watermark", "details", "decoder_input_details", "return_k_alternatives",
        "top_n_tokens", "apply_chat_template", "response_format", "grammar",
    ]  # fmt: skip
    engine = FakeEngine(ids("x"))

    await generate(engine, {"seed": 1})
    await generate(engine, dict.fromkeys(names) | {"seed": 1})

    assert engine.submitted[0].sampling == engine.submitted[1].sampling


@pytest.mark.parametrize("name", ["", None, "__base_model__", "tiny/model"])
async def test_base_model_has_several_ids(name):
    engine = FakeEngine(ids("x"), adapters=["sql"])

    await generate(engine, {"adapter_id": name})

    assert engine.submitted[0].adapter is None


async def test_headers_tell_tokens_times_and_adapter():
    response = await post(
        FakeEngine(ids("hi"), adapters=["sql"]),
        "/generate",
        {"inputs": "abc", "parameters": {"adapter_id": "sql"}},
    )

    headers = response.headers
    assert headers["x-prompt-tokens"] == "3"
    assert headers["x-generated-tokens"] == "3"
    assert headers["x-total-tokens"] == "6"
    assert headers["x-queue-time"] == "2"
    assert headers["x-inference-time"] == "50"
    assert headers["x-model-id"] == "tiny/model"
    assert headers["x-adapter-id"] == "sql"


async def test_chat_template_is_applied_when_asked_for():
    engine = FakeEngine(ids("x"), info=fake_info(max_model_len=400))

    await generate(engine, {"apply_chat_template": True})

    assert len(engine.submitted[0].prompt_token_ids) > 50


async def test_tokenize_shows_the_characters_of_each_token():
    response = await post(FakeEngine(), "/tokenize", {"inputs": "ab"})

    a, b = ids("ab")
    assert response.json() == [
        {"id": a, "text": "a", "start": 0, "stop": 1},
        {"id": b, "text": "b", "start": 1, "stop": 2},
    ]


async def test_info_has_the_keys_of_lorax():
    async with in_process(fake_app(FakeEngine())) as client:
        info = (await client.get("/info")).json()

    assert info["model_id"] == "tiny/model"
    assert (info["max_input_length"], info["max_total_tokens"]) == (127, 128)
    assert (info["max_best_of"], info["max_stop_sequences"]) == (2, 4)
    assert info["max_concurrent_requests"] == 16
    assert info["quantization"] == FakeEngine().info.quantization
