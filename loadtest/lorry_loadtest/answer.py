"""Understands the events of one streamed answer: tokens, counts, the finish and the server's times.

Reads `/v1/completions`, `/v1/chat/completions` and LoRAX's `/generate_stream` alike, of lorry and of
servers like it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lorry.types.common import Usage
from lorry_loadtest.outcomes import AttemptFailed


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _LoraxToken(msgspec.Struct, frozen=True):
    id: int
    text: str = ""
    special: bool = False


class _LoraxDetails(msgspec.Struct, frozen=True):
    finish_reason: str
    generated_tokens: int
    prompt_tokens: int | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: Usage | None = None
    # other servers use this name for times of another shape
    timings: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")
    # LoRAX's: one token per event, and the last one has the whole text as well
    token: _LoraxToken | None = None
    details: _LoraxDetails | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)


class Answer:
    """What one stream has said so far. `feed` is called once per event, in order."""

    def __init__(self) -> None:
        self.event_tokens: list[int] = []
        self.tokens_stated = False
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.timings: dict[str, Any] | None = None
        self.done = False
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def num_tokens(self) -> int:
        """The server's count, or what the events carried when it gave none."""
        return self.usage.completion_tokens if self.usage else sum(self.event_tokens)

    def feed(self, data: bytes) -> int:
        """Takes the data of one event and returns how many tokens it carried.

        Raises AttemptFailed for an error event and for data that is not a chunk.
        """
        if data == b"[DONE]":
            self.done = True
            return 0
        try:
            chunk = _CHUNK.decode(data)
        except msgspec.MsgspecError as exc:
            raise AttemptFailed("sse_malformed", f"{exc} in {_shown(data)}") from exc
        if bytes(chunk.error) not in (b"", b"null"):
            raise AttemptFailed("sse_error_event", _shown(bytes(chunk.error)))
        if chunk.usage is not None:
            self.usage = chunk.usage
        if bytes(chunk.timings):
            self.timings = _timings_of(chunk.timings)
        num_tokens = sum(self._take(choice) for choice in chunk.choices)
        if chunk.token is not None:
            num_tokens += self._take_lorax(chunk.token)
        if chunk.details is not None:
            self._finish_lorax(chunk.details)
        if num_tokens:
            self.event_tokens.append(num_tokens)
        return num_tokens

    def check_finished(self) -> None:
        """Raises AttemptFailed unless the stream said why it ended, and that it ended."""
        if self.finish_reason is None:
            raise AttemptFailed("truncated", "the stream ended without a finish reason")
        if not self.done:
            raise AttemptFailed("truncated", "the stream ended without [DONE]")
        if self.finish_reason in ("abort", "error"):
            raise AttemptFailed("sse_error_event", f"finish reason {self.finish_reason!r}")

    def _take(self, choice: _Choice) -> int:
        """Adds one choice's text; returns its tokens: as stated, else 1 for any text at all."""
        text = choice.text or (choice.delta.content if choice.delta else None) or ""
        if text:
            self._texts.append(text)
        self.finish_reason = choice.finish_reason or self.finish_reason
        if choice.token_ids is not None:
            self.tokens_stated = True
            return len(choice.token_ids)
        return 1 if text else 0

    def _take_lorax(self, token: _LoraxToken) -> int:
        self.tokens_stated = True
        if not token.special:
            self._texts.append(token.text)
        return 1

    def _finish_lorax(self, details: _LoraxDetails) -> None:
        """Its last event is the end: this route has no [DONE]."""
        self.finish_reason = details.finish_reason
        self.done = True
        if details.prompt_tokens is not None:
            self.usage = Usage(
                prompt_tokens=details.prompt_tokens,
                completion_tokens=details.generated_tokens,
                total_tokens=details.prompt_tokens + details.generated_tokens,
            )


def _timings_of(raw: msgspec.Raw) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.ValidationError:
        return None  # not an object: nothing to keep


def _shown(data: bytes) -> str:
    return data[:200].decode("utf-8", "replace")
