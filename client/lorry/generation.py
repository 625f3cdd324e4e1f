"""What a call returns: `Generation`, made of `Token`s, and the counts that go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from lorry.timing import Timing
from lorry.tool_calls import ToolCall
from lorry.types.common import Timings

SHOWN_CHARS = 60

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

    def __repr__(self) -> str:
        facts = [repr(self.text), f"index={self.index}"]
        if self.id is not None:
            facts.append(f"id={self.id}")
        if self.logprob is not None:
            facts.append(f"logprob={self.logprob:.3f}")
        return f"Token({', '.join(facts)})"


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts; `source` says whether the server gave them or the client counted tokens.

    What the client cannot count is None.
    """

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None = None
    source: Literal["server", "counted"] = "server"


class Generation(msgspec.Struct, frozen=True):
    """One completion, or the part of it that came (`TokenStream.partial`, `ClientError.partial`).

    `tokens` is there for streamed answers and when logprobs were asked for; `token_ids` and
    `prompt_token_ids` when the server sends ids. `tool_calls` are the functions that the model asks
    to have called. `finish_reason` is None only in a part. `server` is the server's own account of
    the time, `extra` every field of its answer that has no place here, `tag` what the caller gave.
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
    extra: dict[str, Any] = {}
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message as OpenAI has it, to be put behind the others of a conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["content"] = self.text or None
            message["tool_calls"] = [call.to_message() for call in self.tool_calls]
        return message

    def to_openai(self) -> ChatCompletion:
        """The same as the package `openai` has it; raises ConfigError if that is missing."""
        from lorry.openai_answer import chat_completion  # needed by those who have it only

        return chat_completion(self)

    def facts(self) -> list[str]:
        """What there is to say of it beside its text, in a few words each."""
        from lorry.waterfall import duration  # to show itself

        facts = [self.adapter or self.model or "base", self.finish_reason or "not finished"]
        if self.usage.completion_tokens is not None:
            facts.append(f"{self.usage.completion_tokens} tokens")
        if self.timing.ttft is not None:
            facts.append(f"first after {duration(self.timing.ttft * 1e9)}")
        if self.timing.e2e is not None:
            facts.append(f"{duration(self.timing.e2e * 1e9)} in all")
        if self.attempts > 1:
            facts.append(f"{self.attempts} attempts")
        return facts

    def __repr__(self) -> str:
        shown = [repr(shortened(self.text))]
        if self.tool_calls:
            shown.append(f"calls {', '.join(call.name for call in self.tool_calls)}")
        return f"Generation({', '.join(shown + self.facts())})"

    def _repr_html_(self) -> str:
        from lorry.notebook import generation_html  # needed in notebooks only

        return generation_html(self)


def shortened(text: str) -> str:
    """The beginning of a text that may be long, for one line."""
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
