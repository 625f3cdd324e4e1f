"""`POST /v1/completions`, after OpenAI's reference, with vLLM's extra sampling fields."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from lorry.types.common import MAX_CHOICES, MAX_LOGPROBS, Timings, Usage
from lorry.types.generation import GenerationRequest


class CompletionRequest(
    GenerationRequest, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One call. `prompt` is a string, a list of strings, a list of ids or a list of id lists."""

    # str | list[str] | list[int] | list[list[int]]; mixtures are refused by the server
    prompt: str | list[str | int | list[int]]
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: str | None = None


class CompletionLogprobs(Struct, frozen=True):
    """Parallel lists, one entry per token. An echoed prompt's first token has no logprob."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(Struct, frozen=True):
    """A whole answer, and one chunk of a streamed one; only the last chunk has `timings`."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: str = "text_completion"
    usage: Usage | None = None
    timings: Timings | None = None
