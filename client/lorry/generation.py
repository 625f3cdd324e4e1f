"""What a call returns: `Generation`, made of `Token`s, and the counts that go with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from lorry.timing import Timing
from lorry.types.common import Timings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

ServerTiming: TypeAlias = Timings


class Token(msgspec.Struct, frozen=True, gc=False):
    """One generated token as it arrived.

    `text` may be empty: where an event brings several tokens, the last of them carries the text,
    unless logprobs tell the texts apart. `id` is None when the server sends no ids; a token then
    stands for one event. `t_ns` is the stamp of the read that brought it (`time.perf_counter_ns`).
    """

    text: str
    index: int
    t_ns: int
    id: int | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `source` says whether the server gave them or the client counted tokens.

    What the client cannot count is None.
    """

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None = None
    source: Literal["server", "counted"] = "server"


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion, or the part of it that came (`TokenStream.partial`, `ClientError.partial`).

    `tokens` is there for streamed answers and when logprobs were asked for; `token_ids` and
    `prompt_token_ids` when the server sends ids. `finish_reason` is None only in a part. `server` is the server's own account
    of the time, `extra` every field of its answer that has no place here, `tag` what the caller
    gave.
    """

    text: str
    finish_reason: str | None
    usage: Usage
    timing: Timing
    request_id: str
    endpoint: str
    model: str = ""
    adapter: str | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    tokens: tuple[Token, ...] | None = None
    stop_reason: str | int | None = None
    seed: int | None = None
    attempts: int = 1
    server: ServerTiming | None = None
    tag: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_openai(self) -> ChatCompletion:
        """The same as the package `openai` has it; raises ConfigError if that is missing."""
        from lorry.openai_answer import chat_completion  # needed by those who have it only

        return chat_completion(self)
