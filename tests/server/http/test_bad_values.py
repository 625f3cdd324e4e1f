"""Every field of OpenAI's routes refuses what it must, by name, before the engine sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lorry.types.chat import ChatRequest
from lorry.types.completions import CompletionRequest
from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.http_app import MODEL, fake_app, ids, in_process
from tests.support.schema_values import bad_values

VALID: dict[str, dict[str, Any]] = {
    "/v1/completions": {"model": MODEL, "prompt": "p"},
    "/v1/chat/completions": {"model": MODEL, "messages": [{"role": "user", "content": "p"}]},
}
FROM_SCHEMA = [
    *(("/v1/completions", *item) for item in bad_values(CompletionRequest).items()),
    *(("/v1/chat/completions", *item) for item in bad_values(ChatRequest).items()),
]


async def refusal(path: str, body: Any, **info: object) -> dict[str, Any]:
    """Post `body`, which must get 400, and return the error."""
    engine = FakeEngine(ids("x"), info=fake_info(**info))
    async with in_process(fake_app(engine)) as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await client.post(
            path, content=content, headers={"content-type": "application/json"}
        )
    assert response.status_code == 400, response.text
    assert not engine.submitted
    assert len(response.content) < 2048
    error: dict[str, Any] = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(("path", "field", "values"), FROM_SCHEMA)
async def test_values_that_the_schema_excludes_are_refused_by_name(path, field, values):
    errors = [await refusal(path, VALID[path] | {field: value}) for value in values]

    # inside a list or object the path goes on
    assert {error["param"].split(".")[0].split("[")[0] for error in errors} == {field}
    assert all(field in error["message"] for error in errors)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", []),
        ("prompt", [""]),
        ("prompt", [[]]),
        ("prompt", ["a", ""]),
        ("prompt", [1, "a"]),
        ("prompt", [[1], 2]),
        ("prompt", [-1]),
        ("prompt", [320]),
        ("prompt", [2**63]),
        ("prompt", [1.0]),
        ("prompt", [True]),
        ("prompt", [["1"]]),
        ("prompt", [[1], [320]]),
        ("prompt", ["a"] * 17),
        ("prompt", ["a"] * 100_000),
        ("n", 17),
        ("n", 128),
        ("n", 2**63),
        ("best_of", 10**6),
        ("max_tokens", 2**31),
        ("max_tokens", 128),
        ("max_tokens", "10"),
        ("max_tokens", 1.5),
        ("min_tokens", 17),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"320": 1}),
        ("logit_bias", {"1000000000000": 1}),
        ("logit_bias", {"abc": 1}),
        ("logit_bias", {"": 1}),
        ("logit_bias", {"+1": 1}),
        ("logit_bias", {"1": 1, "01": 2}),
        ("logit_bias", {"1": 100.5}),
        ("logit_bias", {"1": -1e9}),
        ("logit_bias", {"1": None}),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("stop_token_ids", [320]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [10**6]),
        ("stop_token_ids", [0] * 1025),
        ("stop", ""),
        ("stop", [""]),
        ("stop", [None]),
        ("stop", ["x"] * 17),
        ("stop", "x" * 1025),
        ("stop_sequences", ["x"]),
        ("suffix", "after"),
        ("stream_options", {"include_usage": True}),
        ("allowed_token_ids", [1]),
        ("bad_words", ["x"]),
        ("cache_salt", "x" * 2000),
        ("prompt_logprobs", 1),
        ("guided_regex", "(a+)+"),
        ("response_format", {"type": "json_schema"}),
        ("unheard_of", None),
    ],
)
async def test_value_that_only_the_server_can_judge_is_refused_by_name(field, value):
    error = await refusal("/v1/completions", VALID["/v1/completions"] | {field: value})

    # that there are too many sequences is the product of two fields
    named = error["param"].split("[")[0].split(".")[0]
    assert named == field
    assert field in error["message"] or error["code"] in (
        "context_length_exceeded",
        "too_many_sequences",
    )


async def test_product_of_prompts_and_choices_is_bounded():
    error = await refusal("/v1/completions", {"model": MODEL, "prompt": ["a"] * 5, "n": 4})

    assert error["code"] == "too_many_sequences"
    assert "16" in error["message"]


async def test_product_of_sequences_and_tokens_is_bounded():
    error = await refusal(
        "/v1/completions",
        {"model": MODEL, "prompt": "p", "n": 128, "max_tokens": 10_000},
        max_model_len=20_000,
        max_queued_requests=1000,
    )

    assert (error["code"], error["param"]) == ("too_many_tokens", "max_tokens")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"model": MODEL, "prompt": "x" * 128}, "/v1/completions"),
        ({"model": MODEL, "prompt": "x" * 1_000_000}, "/v1/completions"),
        ({"model": MODEL, "prompt": [3] * 128}, "/v1/completions"),
        ({"model": MODEL, "prompt": "x" * 100, "max_tokens": 29}, "/v1/completions"),
        (
            {"model": MODEL, "messages": [{"role": "user", "content": "x" * 200}]},
            "/v1/chat/completions",
        ),
        (
            {"model": MODEL, "messages": [{"role": "user", "content": "x"}] * 10_000},
            "/v1/chat/completions",
        ),
    ],
)
async def test_request_longer_than_the_context_has_a_code_of_its_own(body, path):
    error = await refusal(path, body)

    assert error["code"] == "context_length_exceeded"
    assert "128" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"42",
        b"true",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": "a", "model": "b", "prompt": "p"}',
        b'{"model": "tiny", "prompt": "p", "stream_options": {"a": 1, "a": 2}}',
        b'{"model": "tiny", "prompt": "p", "n": ' + b"1" * 5000 + b"}",
        b'{"model": "tiny", "prompt": "p", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "p", "temperature": Infinity}',
        b'{"model": "tiny", "prompt": "p", "temperature": -Infinity}',
        b'{"model": "tiny", "prompt": "p", "temperature": 1e999}',
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "\\ud800x and more"}',
        b'{"model": "\\udfff", "prompt": "p"}',
        b'{"model": "tiny", "prompt": "\xff"}',
        b'{"model": "tiny", "prompt": "p"} {"model": "tiny"}',
        b'{"model": "tiny", "prompt": "p",}',
        b"\xef\xbb\xbf{}",
    ],
)
async def test_body_that_is_not_one_plain_json_object_is_refused(body):
    await refusal("/v1/completions", body)


async def test_missing_field_is_named():
    error = await refusal("/v1/completions", {"model": MODEL})

    assert (error["param"], error["code"]) == ("prompt", "missing_required_parameter")


async def test_name_of_an_unknown_field_is_shown_escaped_and_cut():
    error = await refusal("/v1/completions", {"model": MODEL, "prompt": "p", "\x1b" * 5000: 1})

    assert "\x1b" not in error["message"]
    assert error["code"] == "unknown_parameter"


@pytest.mark.parametrize("name", ["nobody", "../../etc/passwd", "a\r\nb", "x" * 10_000, "\x00"])
@pytest.mark.parametrize("field", ["model", "adapter_id"])
async def test_unknown_model_is_not_found_whatever_it_is_called(field, name):
    engine = FakeEngine(ids("x"), adapters=["sql"])
    async with in_process(fake_app(engine)) as client:
        response = await client.post(
            "/v1/completions", json={"model": MODEL, "prompt": "p"} | {field: name}
        )

    error = response.json()["error"]
    assert response.status_code == 404
    assert (error["code"], error["param"]) == ("model_not_found", field)
    assert len(response.content) < 2048


@pytest.mark.parametrize("adapter_id", ["law", MODEL, "__base_model__"])
async def test_two_names_for_different_weights_are_a_conflict(adapter_id):
    engine = FakeEngine(ids("x"), adapters=["sql", "law"])
    async with in_process(fake_app(engine)) as client:
        response = await client.post(
            "/v1/completions", json={"model": "sql", "prompt": "p", "adapter_id": adapter_id}
        )

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "adapter_id"
    assert not engine.submitted
