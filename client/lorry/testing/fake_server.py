"""`FakeServer`: the OpenAI routes with answers that a test has written down beforehand."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lorry.testing import payloads
from lorry.testing.scripted_server import ReceivedRequest, Reply, ScriptedServer

_WORD = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A generation. `tokens` are its pieces of text, one event each; without them, `text` by words.

    `max_tokens` of the request cuts it short, with finish_reason "length". `first_token_s` and
    `gap_s` are waited before the first and before each further token; an answer that is not
    streamed takes as long as if it were. After `failure_after` tokens a `failure` happens: the
    connection is cut, nothing more comes ("hang"), or an error is reported. Not streamed, "cut"
    comes in the middle of the body, "hang" before it, and "error" is a status 500.
    """

    text: str = "Hello from the fake server."
    tokens: Sequence[str] | None = None
    finish_reason: str = "stop"
    prompt_tokens: int = 8
    first_token_s: float = 0.0
    gap_s: float = 0.0
    failure: Literal["cut", "hang", "error"] | None = None
    failure_after: int = 0

    @property
    def pieces(self) -> list[str]:
        return _WORD.findall(self.text) if self.tokens is None else list(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer with another status than success, `delay_s` after the request."""

    status: int
    message: str = "refused by the fake server"
    code: str | None = None
    retry_after_s: float | None = None
    delay_s: float = 0.0


Scripted: TypeAlias = Answer | Refusal
Answers: TypeAlias = (
    Scripted
    | Sequence[Scripted]
    | Mapping[str, Scripted | Sequence[Scripted]]
    | Callable[[ReceivedRequest], Scripted]
)


class FakeServer(ScriptedServer):
    """Serves `/v1/completions`, `/v1/chat/completions`, `/v1/models` and `/health` on loopback.

        async with FakeServer(Answer(text="Arr, matey.", gap_s=0.01)) as server:
            client = lorry.AsyncClient(server.url)

    `answers` is one answer for all, a sequence (one each in turn, the last for all that follow), a
    mapping from adapter to either ("" is the base model; an adapter that is not in it is 404), or a
    function of the request. It may be replaced at any time. Token ids are made up, the same for the
    same text; logprobs are left out.

    `requests` is the log of all requests, `num_open` how many generations are being answered,
    `most_open` the largest that this was, `num_abandoned` how many clients left before the end.
    """

    def __init__(self, answers: Answers | None = None, *, port: int = 0) -> None:
        super().__init__(self._respond, port=port)
        self.num_open = 0
        self.most_open = 0
        self.num_abandoned = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.answers = Answer() if answers is None else answers

    @property
    def answers(self) -> Answers:
        return self._answers

    @answers.setter
    def answers(self, answers: Answers) -> None:
        if isinstance(answers, Sequence) and not answers:
            raise ValueError("answers is empty; give at least one answer")
        self._answers = answers
        self._lines: dict[str, Iterator[Scripted]] = {}

    async def idle(self) -> None:
        """Wait until no generation is being answered. In the server's own event loop only."""
        await self._is_idle.wait()

    async def _respond(self, request: ReceivedRequest, reply: Reply) -> None:
        route = request.path.partition("?")[0]
        if request.method == "POST" and route in ("/v1/completions", "/v1/chat/completions"):
            await self._generate(request, reply, is_chat="chat" in route)
        elif request.method == "GET" and route == "/v1/models":
            await reply.json(200, {"object": "list", "data": [_model(n) for n in self._models()]})
        elif request.method == "GET" and route == "/health":
            await reply.plain(200, b"")
        else:
            message = f"the fake server has no {request.method} {route}"
            await reply.json(404, payloads.error(message, code="not_found"))

    async def _generate(self, request: ReceivedRequest, reply: Reply, *, is_chat: bool) -> None:
        body = request.json
        scripted = self._next(request, body.get("adapter_id") or body.get("model") or "")
        self.num_open += 1
        self._is_idle.clear()
        self.most_open = max(self.most_open, self.num_open)
        is_answered = False
        try:
            if isinstance(scripted, Refusal):
                await _refuse(scripted, reply)
            elif body.get("stream"):
                await _stream(scripted, body, reply, is_chat=is_chat)
            else:
                await _answer_whole(scripted, body, reply, is_chat=is_chat)
            is_answered = True
        except _Cut:
            is_answered = True
            reply.cut()
        finally:
            self.num_open -= 1
            self.num_abandoned += not is_answered
            if self.num_open == 0:
                self._is_idle.set()

    def _next(self, request: ReceivedRequest, adapter: str) -> Scripted:
        answers: Any = self._answers
        if callable(answers):
            scripted: Scripted = answers(request)
            return scripted
        name = ""
        if isinstance(answers, Mapping):
            name = "" if adapter == "fake" else adapter
            if name not in answers:
                return Refusal(
                    status=404,
                    message=f"The model {adapter!r} does not exist.",
                    code="model_not_found",
                )
            answers = answers[name]
        if isinstance(answers, Answer | Refusal):
            return answers
        if name not in self._lines:
            self._lines[name] = _in_turn(answers)
        return next(self._lines[name])

    def _models(self) -> list[str]:
        names = self._answers if isinstance(self._answers, Mapping) else ()
        return ["fake", *(name for name in names if name)]


class _Cut(Exception):
    """The script says that the connection ends here."""


def _in_turn(answers: Sequence[Scripted]) -> Iterator[Scripted]:
    yield from answers
    while True:
        yield answers[-1]


async def _refuse(refusal: Refusal, reply: Reply) -> None:
    await reply.pause(refusal.delay_s)
    headers = {}
    if refusal.retry_after_s is not None:
        headers["retry_after"] = f"{refusal.retry_after_s:g}"
    error = payloads.error(refusal.message, code=refusal.code)
    await reply.json(refusal.status, error, **headers)


async def _stream(answer: Answer, body: dict[str, Any], reply: Reply, *, is_chat: bool) -> None:
    pieces, finish_reason = _cut_to_length(answer, body)
    await reply.start_stream()
    for index, piece in enumerate(pieces):
        if answer.failure is not None and index >= answer.failure_after:
            break
        await reply.pause(answer.gap_s if index else answer.first_token_s)
        await reply.events(_chunk(piece, body, is_chat=is_chat, is_first=index == 0))
    if answer.failure is not None:
        await _fail(answer, reply)
        return
    await reply.events(_end(finish_reason, is_chat=is_chat))
    if (body.get("stream_options") or {}).get("include_usage"):
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        await reply.events(payloads.usage_chunk(answer.prompt_tokens, len(pieces), kind=kind))
    await reply.events("[DONE]")
    await reply.end_stream()


async def _fail(answer: Answer, reply: Reply) -> None:
    if answer.failure == "cut":
        raise _Cut
    if answer.failure == "hang":
        await reply.client_left()
        raise ConnectionResetError("the client has left")
    await reply.events(payloads.error("asked to fail", code="fake_failure"))
    await reply.end_stream()


async def _answer_whole(
    answer: Answer, body: dict[str, Any], reply: Reply, *, is_chat: bool
) -> None:
    pieces, finish_reason = _cut_to_length(answer, body)
    await reply.pause(answer.first_token_s + answer.gap_s * max(0, len(pieces) - 1))
    make = payloads.chat_answer if is_chat else payloads.completion
    fields: dict[str, Any] = {"finish_reason": finish_reason}
    if body.get("return_token_ids"):
        fields["token_ids"] = [_token_id(piece) for piece in pieces]
    fields["usage"] = payloads.usage(answer.prompt_tokens, len(pieces))
    payload = make("".join(pieces), **fields)
    if answer.failure == "cut":
        await reply.half(200, json.dumps(payload).encode(), content_type="application/json")
        raise _Cut
    if answer.failure == "hang":
        await reply.client_left()
        raise ConnectionResetError("the client has left")
    if answer.failure == "error":
        await reply.json(500, payloads.error("asked to fail", code="fake_failure"))
        return
    await reply.json(200, payload)


def _cut_to_length(answer: Answer, body: dict[str, Any]) -> tuple[list[str], str]:
    pieces = answer.pieces
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and limit < len(pieces):
        return pieces[:limit], "length"
    return pieces, answer.finish_reason


def _chunk(piece: str, body: dict[str, Any], *, is_chat: bool, is_first: bool) -> dict[str, Any]:
    fields = {"token_ids": [_token_id(piece)]} if body.get("return_token_ids") else {}
    if not is_chat:
        return payloads.completion(piece, **fields)
    delta = {"role": "assistant", "content": piece} if is_first else {"content": piece}
    return payloads.chat_chunk(delta, **fields)


def _end(finish_reason: str, *, is_chat: bool) -> dict[str, Any]:
    if is_chat:
        return payloads.chat_chunk({}, finish_reason=finish_reason)
    return payloads.completion("", finish_reason=finish_reason)


def _token_id(piece: str) -> int:
    return zlib.crc32(piece.encode()) % 50_000


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1, "owned_by": "lorry"}
