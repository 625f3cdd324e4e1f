"""What LoRAX's and TGI's native routes refuse, and how they fail."""

from __future__ import annotations

import pytest

from lorry.types.lorax import GenerateParameters
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import ids
from tests.support.lorax_calls import post, stream
from tests.support.schema_values import bad_values


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 0}, "`best_of` must be > 0 and <= 2. Given: 0"),
        ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        (
            {"best_of": 2, "do_sample": True, "seed": 1},
            "`seed` must not be set when `best_of` > 1",
        ),
        ({"temperature": -0.1}, "`temperature` must be non-negative"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"presence_penalty": -2.1}, "`presence_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 1.1}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"return_k_alternatives": 0}, "`return_k_alternatives` must be strictly positive"),
        (
            {"truncate": 0},
            "`truncate` must be strictly positive and less than 127. Given: 0",
        ),
        (
            {"truncate": 128},
            "`truncate` must be strictly positive and less than 127. Given: 128",
        ),
        ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        (
            {"max_new_tokens": 126},
            "`inputs` tokens + `max_new_tokens` must be <= 128. "
            "Given: 3 `inputs` tokens and 126 `max_new_tokens`",
        ),
        ({"stop": ["a", "b", "c", "d", "e"]}, "`stop` supports up to 4 stop sequences. Given: 5"),
        (
            {"adapter_id": "a", "merged_adapters": {"ids": ["b"]}},
            "at most one of `adapter_id` or `adapters` may be provided",
        ),
        (
            {"merged_adapters": {"ids": []}},
            "at least one adapter ID must be provided when setting `adapters`",
        ),
        (
            {"merged_adapters": {"ids": ["a", "b"], "weights": [1.0]}},
            "number of adapter IDs must match number of adapter weights",
        ),
        (
            {"merged_adapters": {"ids": ["a"] * 9}},
            "a recipe has 1 to 8 adapters, not 9",
        ),
        (
            {"merged_adapters": {"ids": ["a", "b"], "density": 1.5}},
            "`density` must be >= 0.0 and <= 1.0. Given: 1.5",
        ),
        (
            {"merged_adapters": {"ids": ["a", "b"], "merge_strategy": "ties"}},
            "merge method ties needs a density",
        ),
        (
            {"merged_adapters": {"ids": ["a", "b"], "merge_strategy": "slerp"}},
            "there is no merge method 'slerp'; there are linear, ties, dare_linear, dare_ties, "
            "magnitude_prune",
        ),
        (
            {"merged_adapters": {"ids": ["a", "b"], "majority_sign_method": "most"}},
            "`majority_sign_method` must be one of total, frequency. Given: 'most'",
        ),
        (
            {"merged_adapters": {"ids": ["a", "../b"]}},
            "adapter name '../b' is not allowed: it starts with a letter or digit and has at most "
            "96 letters, digits, '.', '_' and '-', with at most one '/' between two such",
        ),
        (
            {"merged_adapters": {"ids": ["a"], "colour": 1}},
            'unknown field "parameters.merged_adapters.colour"',
        ),
        ({"watermark": True}, "`watermark` is not supported by this server"),
        (
            {"grammar": {"type": "regex", "value": "a"}},
            "`grammar` is not supported by this server",
        ),
        (
            {"response_format": {"type": "json_object"}},
            "`response_format` is not supported by this server",
        ),
        (
            {"adapter_id": "x/y", "adapter_source": "hub"},
            "`adapter_source` is not supported by this server",
        ),
        ({"colour": 1}, 'unknown field "parameters.colour"'),
        ({"seed": -1}, "`seed` must be >= 0 and <= 18446744073709551615. Given: -1"),
        ({"temperature": 1e308}, "`temperature` must be <= 100.0. Given: 1e+308"),
        ({"top_k": 2**31}, "`top_k` must be <= 2147483647. Given: 2147483648"),
        ({"top_n_tokens": 21}, "`top_n_tokens` must be >= 0 and <= 20. Given: 21"),
        ({"stop": [""]}, '`stop` strings have 1 to 1024 bytes. Given: ""'),
    ],
)
async def test_bad_parameter_is_answered_in_the_words_that_clients_know(parameters, message):
    engine = FakeEngine(ids("x"))

    response = await post(engine, "/generate", {"inputs": "abc", "parameters": parameters})

    assert response.status_code == 422
    assert response.json() == {
        "error": f"Input validation error: {message}",
        "error_type": "validation",
    }
    assert not engine.submitted


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"best_of": 2, "do_sample": True},
            "`best_of` != 1 is not supported when streaming tokens",
        ),
        (
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
@pytest.mark.parametrize(("path", "extra"), [("/generate_stream", {}), ("/", {"stream": True})])
async def test_parameter_that_cannot_be_streamed_is_refused(path, extra, parameters, message):
    response = await post(
        FakeEngine(ids("x")), path, {"inputs": "abc", "parameters": parameters} | extra
    )

    assert response.status_code == 422
    assert response.json()["error"] == f"Input validation error: {message}"


@pytest.mark.parametrize(("name", "values"), bad_values(GenerateParameters).items())
async def test_value_of_a_wrong_type_or_size_is_refused_by_name(name, values):
    engine = FakeEngine(ids("x"))

    responses = [
        await post(engine, "/generate", {"inputs": "abc", "parameters": {name: value}})
        for value in values
    ]

    assert {response.status_code for response in responses} == {422}
    assert {response.json()["error_type"] for response in responses} == {"validation"}
    assert all(name in response.json()["error"] for response in responses)
    assert not engine.submitted


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", "`inputs` cannot be empty"),
        ("x" * 200, "`inputs` must have less than 128 tokens. Given: 200"),
    ],
)
async def test_bad_inputs_are_answered_in_the_words_that_clients_know(inputs, message):
    response = await post(FakeEngine(ids("x")), "/generate", {"inputs": inputs})

    assert response.status_code == 422
    assert response.json()["error"] == f"Input validation error: {message}"


async def test_adapter_that_is_not_loaded_fails_as_one_that_cannot_be_loaded():
    response = await post(
        FakeEngine(ids("x")), "/generate", {"inputs": "a", "parameters": {"adapter_id": "nobody"}}
    )

    assert response.status_code == 424
    assert response.json()["error_type"] == "generation"
    assert response.json()["error"].startswith("Request failed during generation: ")


async def test_failed_sequence_is_a_generation_error():
    engine = FakeEngine(ids("hello"))
    engine.fail_after = 2
    expected = {
        "error": "Request failed during generation: the row's logits were not finite",
        "error_type": "generation",
    }

    response = await post(engine, "/generate", {"inputs": "a"})
    received = await stream(engine, "/generate_stream", {"inputs": "a"})

    assert (response.status_code, response.json()) == (424, expected)
    assert received[-1] == expected


async def test_sequence_that_the_server_ends_is_an_incomplete_generation():
    engine = FakeEngine(ids("hello"))
    engine.end_after = 2

    response = await post(engine, "/generate", {"inputs": "a"})

    assert response.status_code == 500
    assert response.json() == {
        "error": "Incomplete generation",
        "error_type": "incomplete_generation",
    }
