"""`POST /v1/chat/completions`: the model's own template, then as any completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lorry._version import __version__
from lorry.types.chat import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
)
from lorry.types.common import StreamOptions, Timings, Usage
from lorry_server.adapters.contract import Contract
from lorry_server.adapters.lease import AdapterLease
from lorry_server.errors import RequestError
from lorry_server.http.contract_defaults import (
    apply_contract,
    check_ceiling,
    contract_of,
    default_max_tokens,
)
from lorry_server.http.generation import (
    Answer,
    Delta,
    GeneratedToken,
)
from lorry_server.http.openai_answer import OpenAIRoute
from lorry_server.http.openai_call import OpenAICall, check_num_sequences, open_call
from lorry_server.http.parsing import shown
from lorry_server.http.prompts import Prompt, check_length, check_text, may_be_slow, off_loop
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving
from lorry_server.http.sse import DONE, event
from lorry_server.http.text_event import TextEvent
from lorry_server.http.token_logprobs import chat_logprobs
from lorry_server.http.unsupported_fields import take_chat_fields
from lorry_server.text.chat_template import checked_messages, render_chat

ASSISTANT = "assistant"
SYSTEM_FINGERPRINT = f"lorry-{__version__}"


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    serving: Serving

    async def create(self, request: Request) -> Response:
        return await CHAT.answer(request, serving=self.serving)


async def open_chat(
    wanted: ChatRequest, lease: AdapterLease | None, *, record: RequestRecord, serving: Serving
) -> OpenAICall:
    num_choices = wanted.n or 1
    check_num_sequences(1, num_choices, serving=serving)
    contract = contract_of(lease)
    max_tokens = chat_max_tokens(wanted)
    check_ceiling(max_tokens, lease, param=max_tokens_field(wanted))
    prompt = await chat_prompt(wanted, contract, serving=serving)
    return open_call(
        apply_contract(wanted, contract),
        [prompt],
        lease=lease,
        kind="chatcmpl",
        num_sequences=num_choices,
        max_tokens=max_tokens,
        default_max_tokens=default_max_tokens(contract, None),
        num_logprobs=(wanted.top_logprobs or 0) if wanted.logprobs else None,
        num_prompt_logprobs=None,
        record=record,
        serving=serving,
    )


def check_chat_fields(wanted: ChatRequest) -> None:
    if wanted.top_logprobs is not None and not wanted.logprobs:
        raise RequestError(
            "`top_logprobs` is only for `logprobs: true`",
            param="top_logprobs",
            code="invalid_value",
        )
    if wanted.stream_options is not None and not wanted.stream:
        raise RequestError(
            "`stream_options` is only for `stream: true`",
            param="stream_options",
            code="invalid_value",
        )


def chat_max_tokens(wanted: ChatRequest) -> int | None:
    """`max_completion_tokens` is the newer name of `max_tokens`."""
    old, new = wanted.max_tokens, wanted.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise RequestError(
            f"`max_tokens` ({old}) and `max_completion_tokens` ({new}) are two names of one "
            "limit; give one of them",
            param="max_completion_tokens",
            code="invalid_value",
        )
    return new if new is not None else old


def max_tokens_field(wanted: ChatRequest) -> str:
    return "max_tokens" if wanted.max_completion_tokens is None else "max_completion_tokens"


async def chat_prompt(
    wanted: ChatRequest, contract: Contract | None, *, serving: Serving
) -> Prompt:
    if not wanted.messages:
        raise RequestError("`messages` is empty", param="messages", code="invalid_value")
    messages = [
        template_message(message, path=f"messages[{place}]")
        for place, message in enumerate(wanted.messages)
    ]
    texts = "".join(message["content"] for message in messages)
    if texts:  # an empty message is the template's business
        check_text(texts, param="messages", serving=serving)

    template = serving.chat_template
    chat: Sequence[dict[str, Any]] = messages
    if contract is not None:
        checked_messages(messages)  # while their places are those that the client knows
        chat = contract.with_system_prompt(messages)
        template = contract.template or template

    def render() -> list[int]:
        return render_chat(
            serving.tokenizer,
            template,
            chat,
            add_generation_prompt=wanted.add_generation_prompt is not False,
            continue_final_message=bool(wanted.continue_final_message),
        )

    # A short text in very many messages is long work too.
    token_ids = await off_loop(
        render, num_chars=len(texts) + 256 * len(messages), is_slow=may_be_slow(template)
    )
    check_length(len(token_ids), param="messages", serving=serving)
    return Prompt(tuple(token_ids))


def template_message(message: ChatMessage, *, path: str) -> dict[str, Any]:
    """Return the message with its parts joined to one text, which templates expect."""
    plain: dict[str, Any] = {"role": message.role, "content": message_text(message, path=path)}
    if message.name is not None:
        plain["name"] = message.name
    return plain


def message_text(message: ChatMessage, *, path: str) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        if message.role == ASSISTANT:
            return ""
        raise RequestError(
            f"`{path}.content` must not be null", param=f"{path}.content", code="invalid_value"
        )
    texts = []
    for place, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise RequestError(
                f"`{path}.content[{place}]`: only parts of type `text`, with a `text`, are "
                f"supported. Given: {shown(part.type)}",
                param=f"{path}.content[{place}].type",
                code="invalid_value",
            )
        texts.append(part.text)
    return "".join(texts)


def echoed_text(wanted: ChatRequest) -> str:
    """Return the text that `echo` puts before an answer: that of the message it continues."""
    last = wanted.messages[-1]
    if not wanted.echo or last.role != ASSISTANT:
        return ""
    return message_text(last, path="messages[-1]")


def chat_completion(
    wanted: ChatRequest, call: OpenAICall, answers: Sequence[Answer], *, serving: Serving
) -> ChatCompletion:
    echoed = echoed_text(wanted)
    choices = []
    for answer in answers:
        call.note(Delta(answer.index, answer.tokens, "", finish=answer.finish))
        choices.append(
            ChatChoice(
                index=answer.index,
                message=AssistantMessage(content=echoed + answer.text),
                logprobs=written_logprobs(wanted, answer.tokens, serving=serving),
                finish_reason=answer.finish.wire_reason,
                stop_reason=answer.finish.stop_reason,
                token_ids=written_ids(wanted, answer.tokens),
            )
        )
    return ChatCompletion(
        id=call.answer_id,
        created=call.created,
        model=call.model,
        choices=choices,
        system_fingerprint=SYSTEM_FINGERPRINT,
        usage=call.usage(),
        timings=call.timings(),
        prompt_token_ids=list(call.prompts[0].token_ids) if wanted.return_token_ids else None,
    )


class ChatEvents:
    """The chunks of a stream: each has one choice."""

    def __init__(self, wanted: ChatRequest, call: OpenAICall, *, serving: Serving) -> None:
        options = wanted.stream_options or StreamOptions()
        self._wanted = wanted
        self._call = call
        self._serving = serving
        self._has_usage = bool(options.include_usage)
        self._is_usage_continuous = self._has_usage and bool(options.continuous_usage_stats)
        self._num_open = call.num_sequences
        self._text_events: list[TextEvent] = []  # for each choice, if its chunks are text alone
        if not (wanted.logprobs or wanted.return_token_ids or self._is_usage_continuous):
            self._text_events = [
                TextEvent(
                    self._chunk([ChatChunkChoice(index=index, delta=ChatDelta(content=""))]),
                    field="content",
                )
                for index in range(call.num_sequences)
            ]

    def begin(self) -> bytes:
        """Send the role before the first token, so that it says that the request was accepted."""
        delta = ChatDelta(role=ASSISTANT, content=echoed_text(self._wanted))
        return b"".join(
            self._event([ChatChunkChoice(index=index, delta=delta)])
            for index in range(self._call.num_sequences)
        )

    def write(self, delta: Delta) -> bytes:
        self._call.note(delta)
        if self._text_events and delta.finish is None:
            return self._text_events[delta.index].holding(delta.text) if delta.text else b""
        self._num_open -= delta.finish is not None
        choice = chunk_choice(self._wanted, delta, serving=self._serving)
        if choice is None:
            return b""
        return self._event([choice], has_timings=self._num_open == 0 and not self._has_usage)

    def end(self) -> bytes:
        if not self._has_usage:
            return DONE
        return self._event([], has_usage=True, has_timings=True) + DONE

    def _event(
        self,
        choices: list[ChatChunkChoice],
        *,
        has_usage: bool = False,
        has_timings: bool = False,
    ) -> bytes:
        usage = self._call.usage() if has_usage or self._is_usage_continuous else None
        timings = self._call.timings() if has_timings else None
        return event(self._chunk(choices, usage=usage, timings=timings))

    def _chunk(
        self,
        choices: list[ChatChunkChoice],
        *,
        usage: Usage | None = None,
        timings: Timings | None = None,
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._call.answer_id,
            created=self._call.created,
            model=self._call.model,
            choices=choices,
            system_fingerprint=SYSTEM_FINGERPRINT,
            usage=usage,
            timings=timings,
        )


def chunk_choice(wanted: ChatRequest, delta: Delta, *, serving: Serving) -> ChatChunkChoice | None:
    """Write one delta; None when it has nothing to tell, as when its text is held back."""
    logprobs = written_logprobs(wanted, delta.tokens, serving=serving) if delta.tokens else None
    if not (delta.text or delta.finish or logprobs or wanted.return_token_ids):
        return None
    return ChatChunkChoice(
        index=delta.index,
        delta=ChatDelta(content=delta.text or None),
        logprobs=logprobs,
        finish_reason=delta.finish.wire_reason if delta.finish else None,
        stop_reason=delta.finish.stop_reason if delta.finish else None,
        token_ids=written_ids(wanted, delta.tokens),
    )


def written_logprobs(
    wanted: ChatRequest, tokens: Sequence[GeneratedToken], *, serving: Serving
) -> ChatLogprobs | None:
    if not wanted.logprobs:
        return None
    known = [token.logprobs for token in tokens if token.logprobs is not None]
    return chat_logprobs(known, tokenizer=serving.tokenizer)


def written_ids(wanted: ChatRequest, tokens: Sequence[GeneratedToken]) -> list[int] | None:
    return [token.id for token in tokens] if wanted.return_token_ids else None


CHAT = OpenAIRoute(
    kind=ChatRequest,
    prepare=take_chat_fields,
    check=check_chat_fields,
    open_call=open_chat,
    events=ChatEvents,
    whole=chat_completion,
)
