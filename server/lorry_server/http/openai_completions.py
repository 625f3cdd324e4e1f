"""`POST /v1/completions`: parse, submit, answer or stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from lorry.types.common import StreamOptions, Timings, Usage
from lorry.types.completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from lorry_server.adapters.lease import AdapterLease
from lorry_server.errors import RequestError
from lorry_server.http.contract_defaults import (
    apply_contract,
    check_ceiling,
    contract_of,
    default_max_tokens,
)
from lorry_server.http.generation import Answer, Delta
from lorry_server.http.openai_answer import OpenAIRoute
from lorry_server.http.openai_call import OpenAICall, open_call
from lorry_server.http.prompts import Prompt, completion_prompts
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving
from lorry_server.http.sse import DONE, event
from lorry_server.http.text_event import TextEvent
from lorry_server.http.token_logprobs import CompletionLogprobsWriter
from lorry_server.http.unsupported_fields import take_completion_fields


@dataclass(frozen=True, slots=True)
class CompletionsEndpoint:
    serving: Serving

    async def create(self, request: Request) -> Response:
        return await COMPLETIONS.answer(request, serving=self.serving)


def check_completion_fields(wanted: CompletionRequest) -> None:
    check_best_of(num_sequences(wanted), num_choices=wanted.n or 1, is_streamed=bool(wanted.stream))
    if wanted.stream_options is not None and not wanted.stream:
        raise RequestError(
            "`stream_options` is only for `stream: true`",
            param="stream_options",
            code="invalid_value",
        )


def num_sequences(wanted: CompletionRequest) -> int:
    """How many are generated for each prompt."""
    return (wanted.n or 1) if wanted.best_of is None else wanted.best_of


async def open_completion(
    wanted: CompletionRequest,
    lease: AdapterLease | None,
    *,
    record: RequestRecord,
    serving: Serving,
) -> OpenAICall:
    best_of = num_sequences(wanted)
    contract = contract_of(lease)
    check_ceiling(wanted.max_tokens, lease, param="max_tokens")
    prompts = await completion_prompts(wanted.prompt, serving=serving)
    num_logprobs = wanted.logprobs
    if num_logprobs is None and best_of > (wanted.n or 1):
        num_logprobs = 0  # to rank the sequences by
    return open_call(
        apply_contract(wanted, contract),
        prompts,
        lease=lease,
        kind="cmpl",
        num_sequences=best_of,
        max_tokens=wanted.max_tokens,
        default_max_tokens=default_max_tokens(contract, serving.settings.default_max_tokens),
        num_logprobs=num_logprobs,
        num_prompt_logprobs=wanted.logprobs if wanted.echo else None,
        record=record,
        serving=serving,
    )


def check_best_of(best_of: int, num_choices: int, *, is_streamed: bool) -> None:
    if best_of < num_choices:
        raise RequestError(
            f"`best_of` must be at least `n`, {num_choices}. Given: {best_of}",
            param="best_of",
            code="invalid_value",
        )
    if is_streamed and best_of > num_choices:
        raise RequestError(
            "`best_of` above `n` cannot be streamed: the best is known only at the end",
            param="best_of",
            code="invalid_value",
        )


def completion(
    wanted: CompletionRequest, call: OpenAICall, answers: Sequence[Answer], *, serving: Serving
) -> Completion:
    """Put the answers in the order of the prompts, and the best `n` of each."""
    num_choices = wanted.n or 1
    choices: list[CompletionChoice] = []
    for place, prompt in enumerate(call.prompts):
        start = place * call.num_sequences
        candidates = answers[start : start + call.num_sequences]
        if call.num_sequences > num_choices:
            candidates = sorted(candidates, key=lambda answer: -answer.mean_logprob)
        for answer in candidates[:num_choices]:
            writer = ChoiceWriter(wanted, prompt, serving=serving)
            delta = Delta(
                index=len(choices),
                tokens=answer.tokens,
                text=answer.text,
                prompt_logprobs=answer.prompt_logprobs,
                finish=answer.finish,
            )
            choices.append(writer.write(delta))
    for answer in answers:
        call.note(Delta(answer.index, answer.tokens, "", finish=answer.finish))
    return Completion(
        id=call.answer_id,
        created=call.created,
        model=call.model,
        choices=choices,
        usage=call.usage(),
        timings=call.timings(),
    )


class CompletionEvents:
    """The chunks of a stream: each is a `Completion` with one choice."""

    def __init__(self, wanted: CompletionRequest, call: OpenAICall, *, serving: Serving) -> None:
        options = wanted.stream_options or StreamOptions()
        self._call = call
        self._has_usage = bool(options.include_usage)
        self._is_usage_continuous = self._has_usage and bool(options.continuous_usage_stats)
        self._writers = [
            ChoiceWriter(wanted, prompt, serving=serving)
            for prompt in call.prompts
            for _ in range(call.num_sequences)
        ]
        self._num_open = len(self._writers)
        self._text_events: list[TextEvent] = []  # for each choice, if its chunks are text alone
        if not (
            wanted.logprobs is not None
            or wanted.return_token_ids
            or wanted.echo
            or self._is_usage_continuous
        ):
            self._text_events = [
                TextEvent(self._chunk([CompletionChoice(index=index, text="")]), field="text")
                for index in range(self._num_open)
            ]

    def begin(self) -> bytes:
        return b""

    def write(self, delta: Delta) -> bytes:
        call = self._call
        call.note(delta)
        if self._text_events and delta.finish is None:
            return self._text_events[delta.index].holding(delta.text) if delta.text else b""
        self._num_open -= delta.finish is not None
        choice = self._writers[delta.index].write(delta)
        if not has_news(choice):
            return b""
        is_last = self._num_open == 0 and not self._has_usage
        usage = call.usage() if self._is_usage_continuous else None
        return event(
            self._chunk([choice], usage=usage, timings=call.timings() if is_last else None)
        )

    def end(self) -> bytes:
        if not self._has_usage:
            return DONE
        return event(self._chunk([], usage=self._call.usage(), timings=self._call.timings())) + DONE

    def _chunk(
        self,
        choices: list[CompletionChoice],
        *,
        usage: Usage | None = None,
        timings: Timings | None = None,
    ) -> Completion:
        return Completion(
            id=self._call.answer_id,
            created=self._call.created,
            model=self._call.model,
            choices=choices,
            usage=usage,
            timings=timings,
        )


def has_news(choice: CompletionChoice) -> bool:
    """Whether a chunk is worth sending: a held-back text is not."""
    return bool(
        choice.text or choice.finish_reason or choice.logprobs or choice.token_ids is not None
    )


class ChoiceWriter:
    """Writes one choice, whole or delta by delta; the prompt is echoed before the first."""

    def __init__(self, wanted: CompletionRequest, prompt: Prompt, *, serving: Serving) -> None:
        self._wanted = wanted
        self._prompt = prompt
        self._tokenizer = serving.tokenizer
        self._logprobs = CompletionLogprobsWriter(serving.tokenizer)
        self._is_first = True

    def write(self, delta: Delta) -> CompletionChoice:
        is_first, self._is_first = self._is_first, False
        wants_ids = bool(self._wanted.return_token_ids)
        return CompletionChoice(
            index=delta.index,
            text=(self._echo() if is_first else "") + delta.text,
            logprobs=self._write_logprobs(delta),
            finish_reason=delta.finish.wire_reason if delta.finish else None,
            stop_reason=delta.finish.stop_reason if delta.finish else None,
            token_ids=[token.id for token in delta.tokens] if wants_ids else None,
            prompt_token_ids=list(self._prompt.token_ids) if wants_ids and is_first else None,
        )

    def _echo(self) -> str:
        if not self._wanted.echo:
            return ""
        if self._prompt.text is not None:
            return self._prompt.text
        return self._tokenizer.decode(list(self._prompt.token_ids))

    def _write_logprobs(self, delta: Delta) -> CompletionLogprobs | None:
        if self._wanted.logprobs is None:
            return None
        echoed = (delta.prompt_logprobs or ()) if self._wanted.echo else ()
        generated = [token.logprobs for token in delta.tokens if token.logprobs is not None]
        if not echoed and not generated and delta.finish is None:
            return None
        return self._logprobs.write([*echoed, *generated])


COMPLETIONS = OpenAIRoute(
    kind=CompletionRequest,
    prepare=take_completion_fields,
    check=check_completion_fields,
    open_call=open_completion,
    events=CompletionEvents,
    whole=completion,
)
