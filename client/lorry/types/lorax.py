"""LoRAX's and TGI's native routes: `/`, `/generate`, `/generate_stream`, `/info`, `/tokenize`.

Bounds are not in these types: the two servers answer them with texts that clients match on,
so `lorry_server.http.lorax_validation` checks them in the same words.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from lorry.types.common import Timings


class MergedAdapters(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Several adapters as one. `seed` is ours: what DARE drops is a function of it."""

    ids: list[str]
    weights: list[float] | None = None
    merge_strategy: str | None = None
    density: float | None = None
    majority_sign_method: str | None = None
    seed: int | None = None


class GenerateParameters(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The union of LoRAX's and TGI's parameters; every one may be null."""

    adapter_id: str | None = None
    adapter_source: str | None = None
    merged_adapters: MergedAdapters | None = None
    api_token: str | None = None
    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool | None = None
    max_new_tokens: int | None = None
    ignore_eos_token: bool | None = None
    return_full_text: bool | None = None
    stop: list[str] | None = None
    truncate: int | None = None
    watermark: bool | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    return_k_alternatives: int | None = None
    top_n_tokens: int | None = None
    apply_chat_template: bool | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    grammar: dict[str, Any] | None = None


class GenerateRequest(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /generate` and `/generate_stream`; `POST /` adds `stream`."""

    inputs: str
    parameters: GenerateParameters | None = None
    stream: bool | None = False


class AlternativeToken(Struct, frozen=True):
    id: int
    text: str
    logprob: float | None


class TopToken(Struct, frozen=True):
    """TGI's alternative token, which is told apart from special ones."""

    id: int
    text: str
    logprob: float | None
    special: bool


class PrefillToken(Struct, frozen=True):
    id: int
    text: str
    logprob: float | None


class Token(Struct, frozen=True, omit_defaults=True):
    """One generated token. `skipped` is always sent: LoRAX's client requires it."""

    id: int
    text: str
    logprob: float
    special: bool
    # msgspec omits fields equal to their default; these two have none and are always written
    skipped: bool
    alternative_tokens: list[AlternativeToken] | None = None


class BestOfSequence(Struct, frozen=True):
    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]


class GenerateDetails(Struct, frozen=True, omit_defaults=True):
    """`finish_reason` is `length`, `eos_token` or `stop_sequence`."""

    finish_reason: str
    prompt_tokens: int
    input_length: int
    generated_tokens: int
    skipped_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | None = None
    top_tokens: list[list[TopToken]] | None = None


class GenerateResponse(Struct, frozen=True, omit_defaults=True):
    generated_text: str
    details: GenerateDetails | None = None
    timings: Timings | None = None


class StreamDetails(Struct, frozen=True):
    finish_reason: str
    prompt_tokens: int
    input_length: int
    generated_tokens: int
    seed: int | None


class StreamEvent(Struct, frozen=True, omit_defaults=True):
    """One token; `generated_text` and `details` are null on all but the last event."""

    index: int
    token: Token
    generated_text: str | None
    details: StreamDetails | None
    top_tokens: list[TopToken] | None = None
    timings: Timings | None = None


class TokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    inputs: str
    add_special_tokens: bool | None = True


class TokenSpan(Struct, frozen=True):
    """`start` and `stop` are character offsets into `inputs`."""

    id: int
    text: str
    start: int
    stop: int


class Info(Struct, frozen=True):
    """`GET /info`, with LoRAX's keys; those that do not apply here are null.

    `quantization` of the weights is ours: `none`, or the name of a scheme.
    """

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_length: int
    max_total_tokens: int
    waiting_served_ratio: float
    max_batch_total_tokens: int
    max_waiting_tokens: int
    validation_workers: int
    eager_prefill: bool
    version: str
    sha: str | None
    docker_label: str | None
    request_logger_url: str | None
    quantization: str | None = None
