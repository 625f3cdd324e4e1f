"""`client.classify`: labels for texts, by vLLM's `/classify` or LoRAX's.

The two servers have one path for two things. vLLM gives a text a label with probabilities; LoRAX
finds the entities in it. Which of them is meant is said, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar, Unpack, overload

import msgspec

from lorry.exchange import Exchange
from lorry.options import CallOptions, resolve
from lorry.request_body import BASE_MODEL
from lorry.request_options import TextsOptions
from lorry.session import Session
from lorry.texts_request import as_texts, ask_about, check_one_each
from lorry.timing import Timing


class Classification(msgspec.Struct, frozen=True):
    """What a text is. `probabilities` has one number for each class of the model."""

    label: str | None
    probabilities: tuple[float, ...]

    @property
    def score(self) -> float:
        """The probability of the label: the highest."""
        return max(self.probabilities)


class Entity(msgspec.Struct, frozen=True):
    """What was found in a text, in its characters `start` to `end`."""

    label: str
    text: str
    score: float
    start: int
    end: int


_Label = TypeVar("_Label")


class Classified(msgspec.Struct, Generic[_Label], frozen=True, kw_only=True):
    """What one call found, a label for each text, and what telemetry is told of it.

    `model` is "" and `prompt_tokens` None where the server does not say.
    """

    labels: list[_Label]
    model: str
    prompt_tokens: int | None
    request_id: str
    endpoint: str
    timing: Timing


class _VllmItem(msgspec.Struct, frozen=True):
    index: int
    label: str | None
    probs: list[float]


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None


class _VllmAnswer(msgspec.Struct, frozen=True):
    data: list[_VllmItem]
    model: str = ""
    usage: _Usage | None = None


class _LoraxEntity(msgspec.Struct, frozen=True):
    entity_group: str
    score: float
    word: str
    start: int
    end: int


class Classify:
    """`await client.classify(texts)`. A server that classifies nothing answers with its own error."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @overload
    async def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        dialect: Literal["vllm"] = "vllm",
        **options: Unpack[TextsOptions],
    ) -> list[Classification]: ...

    @overload
    async def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        dialect: Literal["lorax"],
        **options: Unpack[TextsOptions],
    ) -> list[list[Entity]]: ...

    async def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        dialect: Literal["vllm", "lorax"] = "vllm",
        **options: Unpack[TextsOptions],
    ) -> list[Classification] | list[list[Entity]]:
        """A label for each text (vLLM), or the entities in each (LoRAX, which takes no adapter).

        `lorry.request_options.TextsOptions` lists the options. Raises ClientError, TypeError for an
        unknown option, and ValueError for an unknown dialect.
        """
        if dialect not in ("vllm", "lorax"):
            raise ValueError(f"dialect is {dialect!r}; it must be 'vllm' or 'lorax'")
        resolved = resolve(options, timeout=self._session.config.timeout, known=TextsOptions)
        texts = as_texts(inputs)
        if dialect == "vllm":
            return await self._ask_vllm(texts, resolved)
        if resolved.adapter is not None:
            raise TypeError("LoRAX's /classify takes no adapter; leave adapter away")
        return await self._ask_lorax(texts, resolved)

    async def _ask_vllm(self, texts: list[str], options: CallOptions) -> list[Classification]:
        def read(answer: _VllmAnswer, exchange: Exchange) -> Classified[Classification]:
            check_one_each(answer.data, texts, called="labels")
            items = sorted(answer.data, key=lambda item: item.index)
            return _classified(
                [Classification(item.label, tuple(item.probs)) for item in items],
                exchange,
                model=answer.model,
                prompt_tokens=None if answer.usage is None else answer.usage.prompt_tokens,
            )

        found = await ask_about(
            texts,
            session=self._session,
            path="/classify",
            body={"model": options.adapter or BASE_MODEL, "input": texts},
            options=options,
            answer_type=_VllmAnswer,
            read=read,
        )
        return found.labels

    async def _ask_lorax(self, texts: list[str], options: CallOptions) -> list[list[Entity]]:
        def read(answer: list[list[_LoraxEntity]], exchange: Exchange) -> Classified[list[Entity]]:
            check_one_each(answer, texts, called="lists of entities")
            return _classified([[_entity(item) for item in of] for of in answer], exchange)

        found = await ask_about(
            texts,
            session=self._session,
            path="/classify_batch",
            body={"inputs": texts},
            options=options,
            answer_type=list[list[_LoraxEntity]],
            read=read,
        )
        return found.labels


def _classified(
    labels: list[_Label], exchange: Exchange, *, model: str = "", prompt_tokens: int | None = None
) -> Classified[_Label]:
    return Classified(
        labels=labels,
        model=model,
        prompt_tokens=prompt_tokens,
        request_id=exchange.call.request_id,
        endpoint=exchange.endpoint,
        timing=exchange.stopwatch.snapshot(),
    )


def _entity(item: _LoraxEntity) -> Entity:
    return Entity(item.entity_group, item.word, item.score, item.start, item.end)
