"""A generation as `openai` would have returned it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lorry.errors import ConfigError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

    from lorry.generation import Generation, Token


def chat_completion(generation: Generation) -> ChatCompletion:
    """One `ChatCompletion`, also of what was no chat; `created` is the time of this call.

    Raises ConfigError if the package `openai` is missing.
    """
    try:
        from openai.types.chat import ChatCompletion
    except ModuleNotFoundError as error:
        raise ConfigError('to_openai() needs openai: pip install "lorry[openai]"') from error
    usage = generation.usage
    prompt_tokens, completion_tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
    counts: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if usage.cached_tokens is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    choice = {
        "index": 0,
        "message": {**generation.message, "refusal": None},
        "finish_reason": generation.finish_reason,
        "logprobs": _logprobs(generation.tokens),
    }
    # without validation, as `openai` makes its own: finish reasons of ours are none of theirs
    made = ChatCompletion.construct(
        id=generation.request_id,
        object="chat.completion",
        created=int(time.time()),
        model=generation.model,
        choices=[choice],
        usage=counts,
    )
    made._request_id = generation.request_id
    return made


def _logprobs(tokens: tuple[Token, ...] | None) -> dict[str, Any] | None:
    if not tokens or any(token.logprob is None for token in tokens):
        return None
    content = [
        {
            **_alternative(token.text, token.logprob),
            "top_logprobs": [_alternative(*top) for top in token.top_logprobs or ()],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _alternative(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "bytes": list(text.encode()), "logprob": logprob}
