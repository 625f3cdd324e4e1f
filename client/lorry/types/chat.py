"""`POST /v1/chat/completions`, after OpenAI's reference, with vLLM's extra sampling fields."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from lorry.types.common import MAX_LOGPROBS, PositiveInt, Timings, Usage
from lorry.types.generation import GenerationRequest


class ContentPart(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One part of a message; only `type: "text"` is supported."""

    type: str
    text: str | None = None


class ChatMessage(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None


class ChatRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One call. The prompt is the model's own chat template over `messages`."""

    messages: list[ChatMessage]
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    add_generation_prompt: bool | None = True
    continue_final_message: bool | None = False
    response_format: dict[str, Any] | None = None


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class ChatLogprobs(Struct, frozen=True):
    content: list[TokenLogprob] | None = None
    refusal: None = None


class CalledFunction(Struct, frozen=True):
    """`arguments` is JSON text, as the model wrote it; of a streamed call, the next piece of it."""

    name: str | None = None
    arguments: str | None = None


class MessageToolCall(Struct, frozen=True):
    """A call that the model asks for, or a piece of one; only pieces have an `index`."""

    function: CalledFunction
    id: str | None = None
    type: str | None = "function"
    index: int | None = None


class AssistantMessage(Struct, frozen=True):
    """`content` is null where the model calls tools instead of speaking."""

    content: str | None
    role: str = "assistant"
    refusal: str | None = None
    tool_calls: list[MessageToolCall] | UnsetType | None = UNSET


class ChatChoice(Struct, frozen=True):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChatCompletion(Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    object: str = "chat.completion"
    system_fingerprint: str | None = None  # TGI's client requires it
    usage: Usage | None = None
    timings: Timings | None = None
    prompt_token_ids: list[int] | None = None


class ChatDelta(Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    tool_calls: list[MessageToolCall] | None = None


class ChatChunkChoice(Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChatCompletionChunk(Struct, frozen=True):
    """The first chunk of a choice carries the role; only the last of all has `timings`."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    object: str = "chat.completion.chunk"
    system_fingerprint: str | None = None  # TGI's client requires it
    usage: Usage | None = None
    timings: Timings | None = None
