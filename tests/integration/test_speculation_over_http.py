"""Drafts behind HTTP: answers are the same, though several tokens come at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.tiny_model import tiny_tokenizer, write_tiny_model
from tests.support.whole_server import whole_server

PROMPT = "abcd abcd abcd abcd abcd"
# A random model does not repeat itself; one that may use only a few tokens has to.
FEW_TOKENS = {str(token_id): 40.0 for token_id in tiny_tokenizer().encode("abcd").ids}
COMMON: dict[str, Any] = {
    "model": "tiny",
    "prompt": PROMPT,
    "max_tokens": 50,
    "logit_bias": FEW_TOKENS,
}
BODIES: list[dict[str, Any]] = [
    COMMON | {"temperature": 0.0},
    COMMON | {"temperature": 0.0, "logprobs": 2},
    COMMON | {"temperature": 0.5, "seed": 4},
    COMMON | {"temperature": 0.0, "stop": ["cdd", "ba", "ac"]},
    COMMON | {"temperature": 0.5, "seed": 4, "stop": ["bb"], "include_stop_str_in_output": True},
    COMMON | {"temperature": 0.7, "seed": 9, "frequency_penalty": 0.3, "n": 2},
]


async def whole_answers(base_url: str) -> list[Any]:
    answers = []
    async with aiohttp.ClientSession(base_url) as session:
        for body in BODIES:
            async with session.post("/v1/completions", json=body) as response:
                assert response.status == 200, await response.text()
                answer = await response.json()
            answers.append(
                [
                    (choice["index"], choice["text"], choice["finish_reason"], tokens(choice))
                    for choice in answer["choices"]
                ]
                + [answer["usage"]["completion_tokens"]]
            )
    return answers


async def streamed_answers(base_url: str) -> list[Any]:
    answers = []
    async with aiohttp.ClientSession(base_url) as session:
        for body in BODIES:
            streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
            texts: dict[int, str] = {}
            reasons: dict[int, str] = {}
            seen: dict[int, list[str]] = {}
            usage = None
            async with session.post("/v1/completions", json=streamed) as response:
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    event = json.loads(line.removeprefix(b"data: "))
                    usage = event.get("usage") or usage
                    for choice in event["choices"]:
                        index = choice["index"]
                        texts[index] = texts.get(index, "") + choice["text"]
                        seen[index] = seen.get(index, []) + (tokens(choice) or [])
                        if choice["finish_reason"]:
                            reasons[index] = choice["finish_reason"]
            assert usage is not None
            answers.append(
                [
                    (index, texts[index], reasons[index], seen[index] or None)
                    for index in sorted(texts)
                ]
                + [usage["completion_tokens"]]
            )
    return answers


def tokens(choice: dict[str, Any]) -> list[str] | None:
    return None if choice.get("logprobs") is None else choice["logprobs"]["tokens"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


async def test_answers_with_drafts_are_those_without(folder: Path) -> None:
    async with whole_server(folder) as server:
        expected = await whole_answers(server.base_url)
    async with whole_server(folder, "--speculate", "6") as server:
        whole = await whole_answers(server.base_url)
        streamed = await streamed_answers(server.base_url)
        stats = server.service.stats()

    assert whole == expected
    assert streamed == expected
    assert stats.num_accepted_tokens > 30
    assert stats.num_draft_tokens >= stats.num_accepted_tokens
    assert stats.num_drafts > 0
