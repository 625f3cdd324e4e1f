"""Answers of LoRAX's native routes: the union of what its clients and TGI's read."""

from __future__ import annotations

from collections.abc import Sequence

from lorry.types.common import Timings
from lorry.types.lorax import (
    AlternativeToken,
    BestOfSequence,
    GenerateDetails,
    GenerateResponse,
    PrefillToken,
    StreamDetails,
    StreamEvent,
    Token,
    TopToken,
)
from lorry_server.engine.outputs import FinishReason, TokenLogprobs
from lorry_server.http.answer_timings import answer_timings
from lorry_server.http.generation import Answer, Delta, Finish, GeneratedToken
from lorry_server.http.lorax_call import LoraxCall
from lorry_server.http.sse import event
from lorry_server.http.token_logprobs import finite
from lorry_server.text.tokenizer import Tokenizer


def generate_response(
    call: LoraxCall, answers: Sequence[Answer], *, tokenizer: Tokenizer
) -> GenerateResponse:
    """Answer with the best sequence; the others are in its details."""
    best, *others = ranked(answers)
    timings = finish_timings(call, [answer.finish for answer in answers])
    call.record.num_completion_tokens = sum(len(answer.tokens) for answer in answers)
    call.record.finish_reason = finish_reason(best.finish)
    call.record.timings = timings
    return GenerateResponse(
        generated_text=full_text(call, best.text),
        details=details(call, best, others, tokenizer=tokenizer) if call.has_details else None,
        timings=timings,
    )


def ranked(answers: Sequence[Answer]) -> list[Answer]:
    if len(answers) == 1:
        return list(answers)
    return sorted(answers, key=lambda answer: -answer.mean_logprob)


def full_text(call: LoraxCall, generated: str) -> str:
    return call.wanted.inputs + generated if call.parameters.return_full_text else generated


def finish_reason(finish: Finish) -> str:
    """The words of both servers; a stop sequence is not an end-of-sequence token."""
    if finish.stop is not None:
        return "stop_sequence"
    return "length" if finish.reason is FinishReason.LENGTH else "eos_token"


def finish_timings(call: LoraxCall, finishes: Sequence[Finish]) -> Timings | None:
    return answer_timings(
        [finish.timings for finish in finishes if finish.timings is not None],
        record=call.record,
        adapter=call.job.adapter,
    )


def details(
    call: LoraxCall, best: Answer, others: Sequence[Answer], *, tokenizer: Tokenizer
) -> GenerateDetails:
    num_prompt_tokens = len(call.prompt_token_ids)
    top_tokens = None
    if call.parameters.top_n_tokens:
        top_tokens = [
            top_tokens_of(token.logprobs, call.parameters.top_n_tokens, tokenizer=tokenizer)
            for token in best.tokens
        ]
    return GenerateDetails(
        finish_reason=finish_reason(best.finish),
        prompt_tokens=num_prompt_tokens,
        input_length=num_prompt_tokens,
        generated_tokens=len(best.tokens),
        skipped_tokens=0,
        seed=call.seeds[best.index],
        prefill=prefill(best, tokenizer=tokenizer),
        tokens=[wire_token(call, token, tokenizer=tokenizer) for token in best.tokens],
        best_of_sequences=[
            BestOfSequence(
                generated_text=full_text(call, answer.text),
                finish_reason=finish_reason(answer.finish),
                generated_tokens=len(answer.tokens),
                seed=call.seeds[answer.index],
                prefill=prefill(answer, tokenizer=tokenizer),
                tokens=[wire_token(call, token, tokenizer=tokenizer) for token in answer.tokens],
            )
            for answer in others
        ]
        or None,
        top_tokens=top_tokens,
    )


def prefill(answer: Answer, *, tokenizer: Tokenizer) -> list[PrefillToken]:
    return [
        PrefillToken(
            id=token.token_id,
            text=tokenizer.token_text(token.token_id),
            logprob=None if token.logprob is None else finite(token.logprob),
        )
        for token in answer.prompt_logprobs or ()
    ]


def wire_token(call: LoraxCall, token: GeneratedToken, *, tokenizer: Tokenizer) -> Token:
    is_special = token.id in tokenizer.special_token_ids
    k = call.parameters.return_k_alternatives
    logprob = token.logprobs.logprob if token.logprobs else None
    return Token(
        id=token.id,
        text=tokenizer.token_text(token.id) if is_special else token.text,
        logprob=finite(logprob or 0.0),
        special=is_special,
        skipped=False,
        alternative_tokens=alternatives(token.logprobs, k, tokenizer=tokenizer) if k else None,
    )


def alternatives(
    logprobs: TokenLogprobs | None, num: int, *, tokenizer: Tokenizer
) -> list[AlternativeToken]:
    return [
        AlternativeToken(id=token_id, text=tokenizer.token_text(token_id), logprob=finite(logprob))
        for token_id, logprob in (logprobs.top[:num] if logprobs else ())
    ]


def top_tokens_of(
    logprobs: TokenLogprobs | None, num: int, *, tokenizer: Tokenizer
) -> list[TopToken]:
    return [
        TopToken(
            id=token_id,
            text=tokenizer.token_text(token_id),
            logprob=finite(logprob),
            special=token_id in tokenizer.special_token_ids,
        )
        for token_id, logprob in (logprobs.top[:num] if logprobs else ())
    ]


class GenerateEvents:
    """One event a token, and no end mark: these clients read JSON out of every event."""

    def __init__(self, call: LoraxCall, *, tokenizer: Tokenizer) -> None:
        self._call = call
        self._tokenizer = tokenizer
        self._texts: list[str] = []
        self._num_tokens = 0
        self._held: tuple[GeneratedToken, ...] = ()

    def begin(self) -> bytes:
        return b""

    def write(self, delta: Delta) -> bytes:
        self._texts.append(delta.text)
        tokens, self._held = self._held + delta.tokens, ()
        self._call.record.num_completion_tokens += len(delta.tokens)
        if delta.is_stopped and delta.finish is None:
            # The last event needs a token and the timings, and no token will come any more.
            tokens, self._held = tokens[:-1], tokens[-1:]
        return b"".join(
            self._event(token, finish=delta.finish if place == len(tokens) else None)
            for place, token in enumerate(tokens, start=1)
        )

    def end(self) -> bytes:
        return b""

    def _event(self, token: GeneratedToken, *, finish: Finish | None) -> bytes:
        self._num_tokens += 1
        return event(
            stream_event(
                self._call,
                token,
                num_tokens=self._num_tokens,
                finish=finish,
                text=None if finish is None else "".join(self._texts),
                tokenizer=self._tokenizer,
            )
        )


def stream_event(
    call: LoraxCall,
    token: GeneratedToken,
    *,
    num_tokens: int,
    finish: Finish | None,
    text: str | None,
    tokenizer: Tokenizer,
) -> StreamEvent:
    top_n = call.parameters.top_n_tokens
    timings = None
    if finish is not None:
        timings = finish_timings(call, [finish])
        call.record.finish_reason, call.record.timings = finish_reason(finish), timings
    return StreamEvent(
        index=num_tokens,
        token=wire_token(call, token, tokenizer=tokenizer),
        generated_text=None if text is None else full_text(call, text),
        details=None if finish is None else stream_details(call, finish, num_tokens=num_tokens),
        top_tokens=top_tokens_of(token.logprobs, top_n, tokenizer=tokenizer) if top_n else None,
        timings=timings,
    )


def stream_details(call: LoraxCall, finish: Finish, *, num_tokens: int) -> StreamDetails:
    return StreamDetails(
        finish_reason=finish_reason(finish),
        prompt_tokens=len(call.prompt_token_ids),
        input_length=len(call.prompt_token_ids),
        generated_tokens=num_tokens,
        seed=call.seeds[0],
    )
