"""`lorry.json`: what an adapter asks of those who serve it, written beside its weights.

Bounds are those of a request's own fields.
"""

from __future__ import annotations

from msgspec import Struct

from lorry.types.common import (
    MinP,
    Penalty,
    PositiveInt,
    Probability,
    RepetitionPenalty,
    Temperature,
    TopK,
)


class SamplingDefaults(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a request gets where it says nothing."""

    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None


class TemplateFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A file in the adapter's own folder: `chat_template.jinja`."""

    file: str


class AdapterContract(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The whole file. All of it are defaults but `max_tokens_ceiling`, which nobody may exceed.

    `base_fingerprint` names the model that the adapter was trained on; `lorry finetune` writes it.
    """

    description: str | None = None
    system_prompt: str | None = None
    chat_template: str | TemplateFile | None = None
    sampling: SamplingDefaults | None = None
    stop: list[str] | None = None
    max_tokens: PositiveInt | None = None
    max_tokens_ceiling: PositiveInt | None = None
    base_fingerprint: str | None = None
