"""Understands the events of one streamed answer: tokens, counts, the finish and the server's times.

Reads `/v1/completions` and `/v1/chat/completions` alike, of lorry and of servers like it.
"""

from __future__ import annotations

import msgspec

from lorry.types.common import Timings, Usage
from lorry_loadtest.outcomes import AttemptFailed


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: Usage | None = None
    # other servers use this name for times of another shape
    timings: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


_CHUNK = msgspec.json.Decoder(_Chunk)
_TIMINGS = msgspec.json.Decoder(Timings)


class Answer:
    """What one stream has said so far. `feed` is called once per event, in order."""

    def __init__(self) -> None:
        self.event_ns: list[int] = []
        self.event_tokens: list[int] = []
        self.tokens_stated = False
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.done = False
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def num_tokens(self) -> int:
        """The server's count, or what the events carried when it gave none."""
        return self.usage.completion_tokens if self.usage else sum(self.event_tokens)

    def feed(self, data: bytes, *, arrived_ns: int) -> None:
        """Takes the data of one event whose bytes arrived at `arrived_ns`.

        Raises AttemptFailed for an error event and for data that is not a chunk.
        """
        if data == b"[DONE]":
            self.done = True
            return
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
        if num_tokens:
            self.event_ns.append(arrived_ns)
            self.event_tokens.append(num_tokens)

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


def _timings_of(raw: msgspec.Raw) -> Timings | None:
    try:
        return _TIMINGS.decode(raw)
    except msgspec.ValidationError:
        return None  # another server's timings; the report then has no server side


def _shown(data: bytes) -> str:
    return data[:200].decode("utf-8", "replace")
