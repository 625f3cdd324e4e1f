"""What OpenAI's two generating routes are asked in common."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from lorry.types.common import (
    MAX_CHOICES,
    MinP,
    Penalty,
    PositiveInt,
    Probability,
    RepetitionPenalty,
    Seed,
    StreamOptions,
    Temperature,
    TokenCount,
    TopK,
)


class GenerationRequest(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fields that completions and chat share.

    `model` names the base model or an adapter; `adapter_id` names an adapter beside the base.
    Every optional field may also be null, which means its default.
    """

    model: str
    adapter_id: str | None = None
    max_tokens: PositiveInt | None = None
    min_tokens: TokenCount | None = 0
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = False
    ignore_eos: bool | None = False
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: dict[str, float] | None = None
    echo: bool | None = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = False
    user: str | None = None
