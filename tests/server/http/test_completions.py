"""`POST /v1/completions`, answered whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.http_app import EOS, MODEL, fake_app, ids, in_process


async def complete(engine: FakeEngine, body: dict[str, Any], **settings: Any) -> dict[str, Any]:
    async with in_process(fake_app(engine, **settings)) as client:
        response = await client.post("/v1/completions", json={"model": MODEL} | body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


async def test_completion_has_text_usage_and_timings():
    engine = FakeEngine(ids("hello"))

    answer = await complete(engine, {"prompt": "Say"})

    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["model"] == MODEL
    assert answer["choices"] == [
        {
            "index": 0,
            "text": "hello",
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": None,
            "prompt_token_ids": None,
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 6,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert answer["timings"]["prefill_ms"] == 20.0
    assert answer["timings"]["adapter"] is None


async def test_max_tokens_is_sixteen_by_default():
    engine = FakeEngine(ids("a" * 40))

    answer = await complete(engine, {"prompt": "Say"})

    assert answer["choices"][0]["text"] == "a" * 16
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_default_max_tokens_shrinks_to_the_room_that_is_left():
    engine = FakeEngine(ids("a" * 40), info=fake_info(max_model_len=8))

    answer = await complete(engine, {"prompt": "12345"})

    assert answer["choices"][0]["text"] == "aaa"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [ids("ab")]),
        (["ab", "c"], [ids("ab"), ids("c")]),
        (ids("ab"), [ids("ab")]),
        ([ids("ab"), ids("c")], [ids("ab"), ids("c")]),
    ],
)
async def test_prompt_is_a_text_or_ids_or_a_list_of_either(prompt, expected):
    engine = FakeEngine(ids("x"))

    await complete(engine, {"prompt": prompt})

    assert [list(r.prompt_token_ids) for r in engine.submitted] == expected


async def test_answers_come_in_the_order_of_prompts_and_choices():
    """The longer answers end later, whatever their place."""
    texts = {"p": "long answer", "q": "s"}
    engine = FakeEngine(lambda r: ids(texts[chr(r.prompt_token_ids[0] - ids("p")[0] + ord("p"))]))

    answer = await complete(engine, {"prompt": ["p", "q"], "n": 2})

    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert [c["text"] for c in answer["choices"]] == ["long answer"] * 2 + ["s"] * 2
    assert answer["usage"]["prompt_tokens"] == 2


async def test_choices_have_seeds_that_count_up():
    engine = FakeEngine(ids("x"))

    await complete(engine, {"prompt": ["p", "q"], "n": 2, "seed": 7})

    assert [r.sampling.seed for r in engine.submitted] == [7, 8, 7, 8]


async def test_requests_without_a_seed_differ():
    engine = FakeEngine(ids("x"))

    for _ in range(2):
        await complete(engine, {"prompt": "p"})

    assert engine.submitted[0].sampling.seed != engine.submitted[1].sampling.seed


async def test_stop_string_ends_the_text_and_the_sequence():
    engine = FakeEngine(ids("one two three"))

    answer = await complete(engine, {"prompt": "p", "stop": ["wo t"]})

    choice = answer["choices"][0]
    assert choice["text"] == "one t"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "wo t")
    assert answer["usage"]["completion_tokens"] == len("one two t")
    assert answer["timings"] is not None
    assert engine.aborted == [engine.submitted[0].request_id]


async def test_stop_string_is_shown_when_asked_for():
    engine = FakeEngine(ids("one two three"))

    answer = await complete(
        engine, {"prompt": "p", "stop": "two", "include_stop_str_in_output": True}
    )

    assert answer["choices"][0]["text"] == "one two"


@pytest.mark.parametrize("tokens_per_output", [1, 3, 50])
async def test_what_came_after_a_stop_string_does_not_count(tokens_per_output):
    """A slow reader gets many tokens at once, and the same answer."""
    engine = FakeEngine(ids("one two three"), tokens_per_output=tokens_per_output)

    answer = await complete(engine, {"prompt": "p", "stop": "two", "return_token_ids": True})

    assert answer["choices"][0]["text"] == "one "
    assert answer["choices"][0]["token_ids"] == ids("one two")
    assert answer["usage"]["completion_tokens"] == 7


async def test_stop_token_is_named_and_not_shown():
    engine = FakeEngine(ids("ab!cd"))

    answer = await complete(engine, {"prompt": "p", "stop_token_ids": ids("!")})

    choice = answer["choices"][0]
    assert choice["text"] == "ab"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", ids("!")[0])


@pytest.mark.parametrize("prompt", [["A", "C"], [ids("A"), ids("C")]])
async def test_echo_puts_the_prompt_before_each_answer(prompt):
    engine = FakeEngine(ids("B"))

    answer = await complete(engine, {"prompt": prompt, "echo": True})

    assert [c["text"] for c in answer["choices"]] == ["AB", "CB"]


async def test_echoed_prompt_has_logprobs_and_offsets_into_the_text():
    engine = FakeEngine(ids("é!"))

    answer = await complete(engine, {"prompt": "aö", "echo": True, "logprobs": 1, "max_tokens": 3})

    choice = answer["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"] == "aöé!"
    assert logprobs["text_offset"] == [0, 1, 2, 2, 3, 3]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert len(logprobs["tokens"]) == 6
    assert logprobs["tokens"][0] == "a"
    assert choice["text"][logprobs["text_offset"][-1]] == "!"


async def test_logprobs_hold_the_taken_token_and_the_best():
    engine = FakeEngine(ids("a"))

    answer = await complete(engine, {"prompt": "p", "logprobs": 2, "max_tokens": 1})

    a = ids("a")[0]
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["a"],
        "token_logprobs": [-a / 100],
        "top_logprobs": [{"a": -a / 100, "b": -(a + 1) / 100}],
        "text_offset": [0],
    }


async def test_best_of_returns_the_most_likely_sequences():
    scripts = iter(["zz", "aa", "mm"])
    engine = FakeEngine(lambda r: ids(next(scripts)))

    answer = await complete(engine, {"prompt": "p", "n": 2, "best_of": 3, "max_tokens": 2})

    assert [c["text"] for c in answer["choices"]] == ["aa", "mm"]
    assert [c["index"] for c in answer["choices"]] == [0, 1]
    assert [c["logprobs"] for c in answer["choices"]] == [None, None]
    assert answer["usage"]["completion_tokens"] == 6


async def test_ignored_end_tokens_leave_no_text():
    engine = FakeEngine([*ids("a"), EOS, *ids("b")])

    answer = await complete(engine, {"prompt": "p", "ignore_eos": True, "max_tokens": 3})

    assert answer["choices"][0]["text"] == "ab"
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_every_sampling_field_reaches_the_engine():
    engine = FakeEngine(ids("x"))

    await complete(
        engine,
        {
            "prompt": "p",
            "max_tokens": 9,
            "min_tokens": 2,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.1,
            "seed": 11,
            "stop_token_ids": [5],
            "presence_penalty": 0.25,
            "frequency_penalty": -0.5,
            "repetition_penalty": 1.5,
            "logit_bias": {"7": -100, "319": 3.5},
            "logprobs": 3,
        },
    )

    sampling = engine.submitted[0].sampling
    assert (sampling.max_tokens, sampling.min_tokens) == (9, 2)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (
        0.5,
        0.9,
        40,
        0.1,
    )
    assert (sampling.seed, sampling.stop_token_ids, sampling.ignore_eos) == (11, (5,), False)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -0.5)
    assert sampling.repetition_penalty == 1.5
    assert sampling.logit_bias == ((7, -100.0), (319, 3.5))
    assert (sampling.num_logprobs, sampling.num_prompt_logprobs) == (3, None)


async def test_null_is_the_default_of_every_optional_field():
    engine = FakeEngine(ids("x"))
    optional = [
        "adapter_id", "max_tokens", "min_tokens", "n", "best_of", "temperature", "top_p", "top_k",
        "min_p", "seed", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos",
        "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "logprobs",
        "echo", "stream", "stream_options", "return_token_ids", "suffix", "user",
    ]  # fmt: skip

    await complete(engine, {"prompt": "p", "seed": 1})
    await complete(engine, {"prompt": "p"} | dict.fromkeys(optional) | {"seed": 1})

    assert engine.submitted[0].sampling == engine.submitted[1].sampling


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "sql"},
        {"model": MODEL, "adapter_id": "sql"},
        {"model": "", "adapter_id": "sql"},
        {"model": "sql", "adapter_id": "sql"},
        {"model": "sql", "adapter_id": None},
    ],
)
async def test_adapter_is_named_by_model_or_by_adapter_id(fields):
    engine = FakeEngine(ids("x"), adapters=["sql", "law"])

    answer = await complete(engine, {"prompt": "p"} | fields)

    assert engine.submitted[0].adapter == "digest-of-sql"
    assert answer["model"] == "sql"
    assert answer["timings"]["adapter"] == "sql"


@pytest.mark.parametrize(
    "fields",
    [
        {"model": MODEL},
        {"model": "tiny/model"},
        {"model": ""},
        {"model": MODEL, "adapter_id": ""},
        {"model": MODEL, "adapter_id": "__base_model__"},
        {"model": MODEL, "adapter_id": MODEL},
    ],
)
async def test_base_model_has_several_names(fields):
    engine = FakeEngine(ids("x"), adapters=["sql"])

    answer = await complete(engine, {"prompt": "p"} | fields)

    assert engine.submitted[0].adapter is None
    assert answer["model"] == MODEL


async def test_share_that_float32_cannot_hold_still_keeps_the_best_token():
    engine = FakeEngine(ids("x"))

    await complete(engine, {"prompt": "p", "top_p": 5e-324})

    assert engine.submitted[0].sampling.top_p == 1e-6
