"""What every route shares: usage, timings, stop reasons and the bounds of a request."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

FinishReason = Literal["stop", "length", "abort", "error"]

# Bounds that the server enforces on every route. They stand in the types so that the OpenAPI
# document, the parser and the documentation say the same numbers.
MAX_CHOICES = 128
MAX_PROMPTS = 1024
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 1024
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_SEED = 2**63 - 1

Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
Probability = Annotated[float, Meta(gt=0.0, le=1.0)]
MinP = Annotated[float, Meta(ge=0.0, le=1.0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
# Logits are divided by it in float32, which has no room for the quotient of much less.
RepetitionPenalty = Annotated[float, Meta(ge=0.01, le=10.0)]
PositiveInt = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TokenCount = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TopK = Annotated[int, Meta(ge=-1, le=2**31 - 1)]  # -1 and 0: off
Seed = Annotated[int, Meta(ge=-(2**63), le=MAX_SEED)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`include_usage` adds a last chunk with the usage; the other puts usage on every chunk."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int = 0


class Usage(Struct, frozen=True, omit_defaults=True):
    """Token counts of one answer; `cached_tokens` of the prompt came from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class Timings(Struct, frozen=True):
    """Where the server spent a request's time. Times are milliseconds on the engine's clock.

    `queue_ms` runs from arrival to the first step, `prefill_ms` from there to the first token,
    `decode_ms` from the first token to the last. A request of several sequences reports its
    slowest sequence, and the sum of `cached_tokens` and `preemptions`.
    """

    request_id: str
    adapter: str | None
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    cached_tokens: int
    steps: int
    max_batch: int
    preemptions: int
    adapter_load_ms: float | None = None
    prepare_ms: float | None = None
    finish_ms: float | None = None
    total_ms: float | None = None
