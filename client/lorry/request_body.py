"""The bodies of generation requests: what the caller said, in the words of the wire."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lorry.options import CallOptions
from lorry.types.chat import ChatMessage

# An empty model name is the base model; it saves asking the server what its base is called.
BASE_MODEL = ""


def completion_body(prompt: str | Sequence[int], options: CallOptions, *, stream: bool) -> bytes:
    """The body of `POST /v1/completions`.

    Raises TypeError for a prompt that is neither a string nor token ids, or for an option value
    that JSON cannot hold.
    """
    body = _common(options, stream=stream)
    body["prompt"] = prompt if isinstance(prompt, str) else _token_ids(prompt)
    body.update(options.sampling)
    return encode_body(body, options.extra_body)


def chat_body(
    messages: Sequence[Mapping[str, Any] | ChatMessage], options: CallOptions, *, stream: bool
) -> bytes:
    """The body of `POST /v1/chat/completions`; messages go as they are given."""
    if isinstance(messages, str):
        raise TypeError('messages is a string; give a list like [{"role": "user", "content": ...}]')
    body = _common(options, stream=stream)
    body["messages"] = list(messages)
    sampling = dict(options.sampling)
    num_alternatives = sampling.pop("logprobs", None)
    if num_alternatives is not None:
        sampling["logprobs"] = True
        sampling["top_logprobs"] = num_alternatives
    body.update(sampling)
    return encode_body(body, options.extra_body)


def _common(options: CallOptions, *, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"model": options.adapter or BASE_MODEL, "return_token_ids": True}
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def _token_ids(prompt: Sequence[int]) -> list[int]:
    try:
        # index() turns the integers of array libraries into plain ones and refuses the rest
        return [operator.index(token_id) for token_id in prompt]
    except TypeError as error:
        raise TypeError(
            "a prompt is a string or a sequence of token ids; for several prompts use generate_many"
        ) from error


def encode_body(body: dict[str, Any], extra_body: Mapping[str, Any]) -> bytes:
    """The JSON of a body, with what the caller adds; None in `extra_body` removes a field."""
    body.update(extra_body)
    for name in [name for name, value in extra_body.items() if value is None]:
        del body[name]
    return msgspec.json.encode(body)
