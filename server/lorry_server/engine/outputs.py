"""What crosses back from the engine: token ids, never text, never tensors."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import msgspec


class FinishReason(enum.StrEnum):
    """Why a sequence ended. The wire names of each API are made from these at the edge."""

    EOS = "eos"  # an end-of-sequence token of the model
    STOP_TOKEN = "stop_token"  # one of the request's stop_token_ids
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    DEADLINE = "deadline"  # the time that its client gave it was over


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token's logprob and those of the best tokens at its position, best first."""

    token_id: int
    logprob: float | None  # None: the first prompt token, which nothing predicts
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceTimings:
    """Milliseconds on the engine's monotonic clock; see `lorry.types.common.Timings`.

    `first_step` and `last_step` are indices of the step log; None where no step computed it.
    """

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    cached_tokens: int
    steps: int
    max_batch: int
    preemptions: int
    first_step: int | None
    last_step: int | None


class TokenOutput(msgspec.Struct, frozen=True):
    """New tokens of one sequence since its reader last looked; a slow reader gets them merged.

    `token_ids` includes the end-of-sequence or stop token that ended the sequence, if one did.
    The last output has `finish_reason` and `timings`; `error` is set when the reason is ERROR.
    A struct because there is one for every token: it is made ten times faster than a dataclass.
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    error: str | None = None
    timings: SequenceTimings | None = None
