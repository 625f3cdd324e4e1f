"""A generation put together from the server's answer, whole or chunk by chunk; no I/O.

The first choice is read; a call of this client asks for one. Both OpenAI dialects, completions and
chat, come down to one `Delta` per chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from lorry.error_mapping import read_error_report, stream_error
from lorry.errors import StreamProtocolError
from lorry.generation import Generation, ServerTiming, Token, Usage
from lorry.options import CallOptions
from lorry.timing import Stopwatch, Timing
from lorry.tool_calls import ToolCallBuilder
from lorry.types import chat, common
from lorry.types.completions import Completion, CompletionChoice, CompletionLogprobs

_DONE = b"[DONE]"
_BRACE = 0x7B  # what every event but [DONE] begins with

_Answer = TypeVar("_Answer", Completion, chat.ChatCompletion, chat.ChatCompletionChunk)
TopLogprobs = tuple[tuple[str, float], ...]


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """The text, logprob and best alternatives of one token, whichever dialect said it."""

    text: str
    logprob: float | None
    top: TopLogprobs | None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What one chunk (or a whole answer) adds.

    A struct rather than a dataclass, as `Token` is: one is made for every event of a stream, and
    structs are made several times faster.
    """

    model: str
    text: str = ""
    token_ids: Sequence[int] | None = None
    prompt_token_ids: Sequence[int] | None = None
    logprobs: Sequence[TokenLogprob] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    usage: common.Usage | None = None
    timings: common.Timings | None = None
    tool_calls: Sequence[chat.MessageToolCall] | None = None


_NOTHING = Delta(model="")


class Dialect(msgspec.Struct, frozen=True):
    """How one route answers: a reader for whole answers, with what they have no place for, and one
    for the chunks of a stream."""

    read_answer: Callable[[bytes], tuple[Delta, dict[str, Any]]]
    read_chunk: Callable[[bytes], Delta]


class GenerationBuilder:
    """Collects deltas; `build` gives the generation so far at any moment."""

    __slots__ = (
        "_dialect",
        "_extra",
        "_has_ended",
        "_last",
        "_prompt_token_ids",
        "_texts",
        "_timings",
        "_token_ids",
        "_tokens",
        "_tool_calls",
        "_usage",
    )

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._texts: list[str] = []
        self._tokens: list[Token] = []
        self._token_ids: list[int] | None = []
        self._prompt_token_ids: Sequence[int] | None = None
        self._last = _NOTHING
        self._usage: common.Usage | None = None
        self._timings: common.Timings | None = None
        self._tool_calls: ToolCallBuilder | None = None  # as nearly always
        self._extra: dict[str, Any] = {}
        self._has_ended = False

    @property
    def is_complete(self) -> bool:
        """A finish reason or `[DONE]` has come: the stream may end now."""
        return self._has_ended or self._last.finish_reason is not None

    @property
    def has_ended(self) -> bool:
        """`[DONE]` has come: nothing follows."""
        return self._has_ended

    def add_event(self, data: bytes, *, t_ns: int) -> list[Token]:
        """Take the data of one event; return the tokens it brought.

        Raises ServerStreamError for an error event and StreamProtocolError for what is neither.
        """
        if not data:
            return []
        if data[0] != _BRACE and data.strip() == _DONE:
            self._has_ended = True
            return []
        delta = self._dialect.read_chunk(data)
        # such chunks carry what servers add of their own: they end the text or follow its end
        if delta.finish_reason is not None or delta.usage is not None:
            self._extra.update(_unknown_fields(data))
        return self._add(delta, t_ns=t_ns)

    def add_answer(self, body: bytes, *, t_ns: int, keeps_tokens: bool) -> None:
        """Take a whole, not streamed answer. `keeps_tokens`: its single tokens are wanted."""
        delta, self._extra = self._dialect.read_answer(body)
        # where nobody wants them, and the server has counted them, thousands need not be made
        self._add(delta, t_ns=t_ns, splits=keeps_tokens or delta.usage is None)
        self._has_ended = True

    def timing(self, stopwatch: Stopwatch) -> Timing:
        """The record so far, with the server's count of tokens and its account of the time."""
        counts = self._usage
        num_tokens = (len(self._tokens) or None) if counts is None else counts.completion_tokens
        return stopwatch.snapshot(num_tokens=num_tokens, server=self._timings)

    def build(
        self, stopwatch: Stopwatch, *, options: CallOptions, endpoint: str, keeps_tokens: bool
    ) -> Generation:
        """`keeps_tokens`: single tokens mean something, because of stamps or logprobs."""
        ids, prompt_ids = self._token_ids, self._prompt_token_ids
        return Generation(
            text="".join(self._texts),
            tool_calls=() if self._tool_calls is None else self._tool_calls.build(),
            finish_reason=self._last.finish_reason,
            usage=self.usage,
            timing=self.timing(stopwatch),
            request_id=options.request_id,
            endpoint=endpoint,
            model=self._last.model,
            adapter=options.adapter,
            token_ids=tuple(ids) if ids else None,
            prompt_token_ids=None if prompt_ids is None else tuple(prompt_ids),
            tokens=tuple(self._tokens) if keeps_tokens else None,
            stop_reason=self._last.stop_reason,
            seed=options.sampling.get("seed"),
            attempts=len(stopwatch.attempts),
            server=self._timings,
            tag=options.tag,
            extra=self._extra.copy(),
        )

    @property
    def usage(self) -> Usage:
        """The server's counts, or what was counted until it sends them."""
        counts = self._usage
        if counts is None:
            return Usage(None, len(self._tokens) or None, source="counted")
        details = counts.prompt_tokens_details
        return Usage(
            prompt_tokens=counts.prompt_tokens,
            completion_tokens=counts.completion_tokens,
            cached_tokens=None if details is None else details.cached_tokens,
        )

    def _add(self, delta: Delta, *, t_ns: int, splits: bool = True) -> list[Token]:
        if delta.usage is not None:
            self._usage = delta.usage
        if delta.timings is not None:
            self._timings = delta.timings
        if delta.tool_calls:
            self._tool_calls = self._tool_calls or ToolCallBuilder()
            self._tool_calls.add(delta.tool_calls)
        if delta.prompt_token_ids is not None:
            self._prompt_token_ids = delta.prompt_token_ids
        if delta.finish_reason is not None or self._last.finish_reason is None:
            self._last = delta
        ids = delta.token_ids
        if not splits:
            tokens = []
        elif ids is not None and len(ids) == 1 and delta.logprobs is None:  # as nearly all are
            tokens = [Token(delta.text, len(self._tokens), t_ns, ids[0])]
        else:
            tokens = self._split(delta, t_ns)
        if delta.text:
            self._texts.append(delta.text)
        if ids:
            if self._token_ids is not None:
                self._token_ids.extend(ids)
        elif delta.text or delta.tool_calls:
            self._token_ids = None  # the ids would have a hole
        self._tokens.extend(tokens)
        return tokens

    def _split(self, delta: Delta, t_ns: int) -> list[Token]:
        """Divide a delta into its tokens; see `Token` for who gets the text."""
        ids, logprobs = delta.token_ids or (), delta.logprobs or ()
        count = len(ids) or len(logprobs) or (1 if delta.text or delta.tool_calls else 0)
        if count == 0:
            return []
        texts = [""] * (count - 1) + [delta.text]
        if len(logprobs) == count and "".join(item.text for item in logprobs) == delta.text:
            texts = [item.text for item in logprobs]
        first = len(self._tokens)
        return [
            Token(
                text=texts[i],
                index=first + i,
                t_ns=t_ns,
                id=ids[i] if ids else None,
                logprob=logprobs[i].logprob if len(logprobs) == count else None,
                top_logprobs=logprobs[i].top if len(logprobs) == count else None,
            )
            for i in range(count)
        ]


def _completion_chunk_delta(data: bytes) -> Delta:
    answer = _decode(data, _COMPLETION_DECODER, Completion)
    if answer.choices and answer.usage is None and answer.timings is None:
        choice = answer.choices[0]
        if choice.finish_reason is None and choice.logprobs is None and not choice.prompt_token_ids:
            return Delta(answer.model, choice.text, choice.token_ids)  # as nearly all are
    return _completion_delta(answer)


def _completion_answer(data: bytes) -> tuple[Delta, dict[str, Any]]:
    try:
        return _completion_delta(_KNOWN_COMPLETION_DECODER.decode(data)), {}
    except msgspec.DecodeError:  # it has other fields too, or is none
        answer = _decode(data, _COMPLETION_DECODER, Completion)
    return _completion_delta(answer), _unknown_fields(data)


def _completion_delta(answer: Completion) -> Delta:
    if not answer.choices:
        return Delta(answer.model, usage=answer.usage, timings=answer.timings)
    choice = answer.choices[0]
    return Delta(
        model=answer.model,
        text=choice.text,
        token_ids=choice.token_ids,
        prompt_token_ids=choice.prompt_token_ids,
        logprobs=None if choice.logprobs is None else _completion_logprobs(choice.logprobs),
        finish_reason=choice.finish_reason,
        stop_reason=choice.stop_reason,
        usage=answer.usage,
        timings=answer.timings,
    )


def _chat_answer(data: bytes) -> tuple[Delta, dict[str, Any]]:
    answer = _decode(data, _CHAT_DECODER, chat.ChatCompletion)
    return _chat_answer_delta(answer), _unknown_fields(data)


def _chat_answer_delta(answer: chat.ChatCompletion) -> Delta:
    if not answer.choices:
        return Delta(answer.model, usage=answer.usage, timings=answer.timings)
    choice = answer.choices[0]
    tool_calls = choice.message.tool_calls
    return Delta(
        model=answer.model,
        text=choice.message.content or "",
        token_ids=choice.token_ids,
        prompt_token_ids=answer.prompt_token_ids,
        logprobs=_chat_logprobs(choice.logprobs),
        finish_reason=choice.finish_reason,
        stop_reason=choice.stop_reason,
        usage=answer.usage,
        timings=answer.timings,
        tool_calls=None if isinstance(tool_calls, msgspec.UnsetType) else tool_calls,
    )


def _chat_chunk_delta(data: bytes) -> Delta:
    answer = _decode(data, _CHAT_CHUNK_DECODER, chat.ChatCompletionChunk)
    if not answer.choices:
        return Delta(answer.model, usage=answer.usage, timings=answer.timings)
    choice = answer.choices[0]
    return Delta(
        model=answer.model,
        text=choice.delta.content or "",
        token_ids=choice.token_ids,
        logprobs=_chat_logprobs(choice.logprobs),
        finish_reason=choice.finish_reason,
        stop_reason=choice.stop_reason,
        usage=answer.usage,
        timings=answer.timings,
        tool_calls=choice.delta.tool_calls,
    )


class _KnownChoice(CompletionChoice, frozen=True, forbid_unknown_fields=True):
    """A choice without other fields."""


class _KnownCompletion(Completion, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer without fields that a generation has no place for, as most are: read only once."""

    choices: list[_KnownChoice]  # type: ignore[assignment]  # read and never written


def _completion_logprobs(logprobs: CompletionLogprobs) -> list[TokenLogprob]:
    tops = logprobs.top_logprobs or [None] * len(logprobs.tokens)
    return [
        TokenLogprob(text, logprob, None if top is None else tuple(top.items()))
        for text, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, tops, strict=False)
    ]


def _chat_logprobs(logprobs: chat.ChatLogprobs | None) -> list[TokenLogprob] | None:
    if logprobs is None or logprobs.content is None:
        return None
    return [
        TokenLogprob(
            item.token, item.logprob, tuple((top.token, top.logprob) for top in item.top_logprobs)
        )
        for item in logprobs.content
    ]


def _decode(data: bytes, decoder: msgspec.json.Decoder[_Answer], kind: type[_Answer]) -> _Answer:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        return _decode_unusual(data, kind, error)
    except msgspec.DecodeError as error:
        raise StreamProtocolError(f"not JSON: {error}", snippet=data) from error


def _decode_unusual(data: bytes, kind: type[_Answer], problem: Exception) -> _Answer:
    """Tell an error report from an answer of another server, whose `timings` are not ours."""
    raw = msgspec.json.decode(data)
    report = read_error_report(raw)
    if report is not None:
        raise stream_error(report)
    if isinstance(raw, dict) and "timings" in raw:
        del raw["timings"]
        try:
            return msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            problem = error
    raise StreamProtocolError(f"not an answer of this route: {problem}", snippet=data)


def _unknown_fields(data: bytes) -> dict[str, Any]:
    """The fields of an answer and of its first choice that have no other place; nulls say nothing."""
    fields = _FIELDS_DECODER.decode(data)
    extra = _unknown_among(fields)
    choices = fields.get("choices")
    if choices is not None:
        for choice in _CHOICES_DECODER.decode(choices)[:1]:
            extra.update(_unknown_among(choice))
    timings = fields.get("timings")
    if timings is not None and not _is_ours(timings):
        extra["timings"] = msgspec.json.decode(timings)
    return extra


def _unknown_among(fields: dict[str, msgspec.Raw]) -> dict[str, Any]:
    return {
        name: msgspec.json.decode(value)
        for name, value in fields.items()
        if name not in _KNOWN_FIELDS and value != _NULL
    }


def _is_ours(timings: msgspec.Raw) -> bool:
    try:
        _TIMINGS_DECODER.decode(timings)
    except msgspec.ValidationError:
        return False
    return True


# what a generation has a place for, and what every answer's envelope is made of
_KNOWN_FIELDS = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "timings"}
    | {"index", "text", "message", "delta", "logprobs", "finish_reason", "stop_reason"}
    | {"token_ids", "prompt_token_ids"}
)

# values of fields stay as they were sent, so that only unknown ones are made objects of
_NULL = msgspec.Raw(b"null")
_FIELDS_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHOICES_DECODER = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_TIMINGS_DECODER = msgspec.json.Decoder(ServerTiming | None)
_COMPLETION_DECODER = msgspec.json.Decoder(Completion)
_KNOWN_COMPLETION_DECODER = msgspec.json.Decoder(_KnownCompletion)
_CHAT_DECODER = msgspec.json.Decoder(chat.ChatCompletion)
_CHAT_CHUNK_DECODER = msgspec.json.Decoder(chat.ChatCompletionChunk)

COMPLETIONS = Dialect(read_answer=_completion_answer, read_chunk=_completion_chunk_delta)
CHAT = Dialect(read_answer=_chat_answer, read_chunk=_chat_chunk_delta)
