"""From the sampling fields that OpenAI's routes share to `SamplingParams`."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import TypeVar

from lorry.types.chat import ChatRequest
from lorry.types.common import MAX_LOGIT_BIAS, MAX_STOP_BYTES, MAX_STOP_STRINGS
from lorry.types.completions import CompletionRequest
from lorry_server.engine.request import SamplingParams
from lorry_server.errors import RequestError
from lorry_server.http.parsing import shown

N = TypeVar("N", int, float)

SEED_RANGE = 2**63
MAX_STOP_TOKEN_IDS = 1024
MAX_BIAS = 100.0
# Float32 would round less to zero, and a nucleus of no mass holds no token at all.
MIN_PROBABILITY = 1e-6


def sampling_params(
    request: CompletionRequest | ChatRequest,
    *,
    max_tokens: int,
    num_logprobs: int | None,
    num_prompt_logprobs: int | None,
    seed: int,
    logits_width: int,
) -> SamplingParams:
    """Convert what the schema has checked field by field; check what it cannot.

    `max_tokens` and `seed` are those of this one sequence.
    """
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise RequestError(
            f"`min_tokens` must be at most `max_tokens`, {max_tokens}. Given: {min_tokens}",
            param="min_tokens",
            code="invalid_value",
        )
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=given(request.temperature, 1.0),
        top_p=max(given(request.top_p, 1.0), MIN_PROBABILITY),
        top_k=max(given(request.top_k, 0), 0),
        min_p=given(request.min_p, 0.0),
        seed=seed,
        stop_token_ids=stop_token_ids(request.stop_token_ids, logits_width=logits_width),
        ignore_eos=bool(request.ignore_eos),
        presence_penalty=given(request.presence_penalty, 0.0),
        frequency_penalty=given(request.frequency_penalty, 0.0),
        repetition_penalty=given(request.repetition_penalty, 1.0),
        logit_bias=logit_bias(request.logit_bias, logits_width=logits_width),
        num_logprobs=num_logprobs,
        num_prompt_logprobs=num_prompt_logprobs,
    )


def given(value: N | None, default: N) -> N:
    return default if value is None else value


def sequence_seeds(seed: int | None, *, num_sequences: int) -> list[int]:
    """Return a seed for each sequence: they count up from `seed`, or from a random one."""
    first = secrets.randbelow(SEED_RANGE) if seed is None else seed
    return [(first + index) % SEED_RANGE for index in range(num_sequences)]


def stop_strings(
    stop: str | Sequence[str] | None, *, max_strings: int = MAX_STOP_STRINGS
) -> tuple[str, ...]:
    strings = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    if len(strings) > max_strings:
        raise RequestError(
            f"`stop` may hold at most {max_strings} strings. Given: {len(strings)}",
            param="stop",
            code="invalid_value",
        )
    for string in strings:
        if not 1 <= len(string.encode()) <= MAX_STOP_BYTES:
            raise RequestError(
                f"`stop` strings have 1 to {MAX_STOP_BYTES} bytes. Given: {shown(string)}",
                param="stop",
                code="invalid_value",
            )
    return strings


def stop_token_ids(ids: Sequence[int] | None, *, logits_width: int) -> tuple[int, ...]:
    if ids is None:
        return ()
    if len(ids) > MAX_STOP_TOKEN_IDS:
        raise RequestError(
            f"`stop_token_ids` may hold at most {MAX_STOP_TOKEN_IDS} ids. Given: {len(ids)}",
            param="stop_token_ids",
            code="invalid_value",
        )
    for token_id in ids:
        if not 0 <= token_id < logits_width:
            raise RequestError(
                f"`stop_token_ids` are from 0 to {logits_width - 1}. Given: {shown(token_id)}",
                param="stop_token_ids",
                code="invalid_value",
            )
    return tuple(ids)


def logit_bias(
    bias: dict[str, float] | None, *, logits_width: int
) -> tuple[tuple[int, float], ...]:
    if bias is None:
        return ()
    if len(bias) > MAX_LOGIT_BIAS:
        raise RequestError(
            f"`logit_bias` may hold at most {MAX_LOGIT_BIAS} entries. Given: {len(bias)}",
            param="logit_bias",
            code="invalid_value",
        )
    return tuple(
        (bias_token_id(key, logits_width=logits_width), bias_value(value))
        for key, value in bias.items()
    )


def bias_token_id(key: str, *, logits_width: int) -> int:
    # int() would also take "+1", " 1", "1_0" and "01", which would be a second key for token 1.
    is_number = key.isascii() and key.isdecimal() and len(key) <= 10 and str(int(key)) == key
    if not is_number or int(key) >= logits_width:
        raise RequestError(
            f"keys of `logit_bias` are token ids from 0 to {logits_width - 1}. Given: {shown(key)}",
            param="logit_bias",
            code="invalid_value",
        )
    return int(key)


def bias_value(value: float) -> float:
    if not math.isfinite(value) or abs(value) > MAX_BIAS:
        raise RequestError(
            f"values of `logit_bias` are from {-MAX_BIAS:g} to {MAX_BIAS:g}. Given: {shown(value)}",
            param="logit_bias",
            code="invalid_value",
        )
    return value
