"""The bodies and events that a server of the OpenAI routes sends, as plain dictionaries."""

from __future__ import annotations

import json
from typing import Any

_OF_CHOICE = ("finish_reason", "stop_reason", "token_ids", "logprobs")


def event(payload: Any) -> bytes:
    """One server-sent event: a str as it is, anything else as JSON."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return f"data: {text}\n\n".encode()


def completion(text: str, **fields: Any) -> dict[str, Any]:
    """A whole completion, or one chunk; fields named as the choice's go there."""
    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None}
    return _answer("text_completion", choice, fields)


def chat_answer(content: str, **fields: Any) -> dict[str, Any]:
    """A whole chat completion."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": "stop",
    }
    return _answer("chat.completion", choice, fields)


def chat_chunk(delta: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """One chunk of a streamed chat completion."""
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
    return _answer("chat.completion.chunk", choice, fields)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The counts of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def usage_chunk(
    prompt_tokens: int, completion_tokens: int, *, kind: str = "text_completion", **fields: Any
) -> dict[str, Any]:
    """The chunk without choices that ends a stream whose client asked for the counts."""
    counts = usage(prompt_tokens, completion_tokens)
    return {**_answer(kind, {}, {}), "choices": [], "usage": counts, **fields}


def error(message: str, **fields: Any) -> dict[str, Any]:
    """An error's body."""
    return {"error": {"message": message, "type": "fake_error", "param": None, **fields}}


def _answer(kind: str, choice: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    choice.update({name: fields.pop(name) for name in _OF_CHOICE if name in fields})
    return {
        "id": "cmpl-1",
        "object": kind,
        "created": 1,
        "model": "fake",
        "choices": [choice],
        **fields,
    }
