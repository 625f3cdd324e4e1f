"""`client.classify`: labels for texts, by vLLM's `/classify` or LoRAX's.

The two servers have one path for two things. vLLM gives a text a label with probabilities; LoRAX
finds the entities in it. Which of them is meant is said, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import msgspec

from lorry.errors import StreamProtocolError
from lorry.exchange import Exchange
from lorry.options import CallOptions, resolve
from lorry.request_body import BASE_MODEL, encode_body
from lorry.session import Session, answer_to
from lorry.timeout import Timeout


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


class _VllmItem(msgspec.Struct, frozen=True):
    index: int
    label: str | None
    probs: list[float]


class _VllmAnswer(msgspec.Struct, frozen=True):
    data: list[_VllmItem]


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
        adapter: str | None = None,
        deadline: float | None = None,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109
        request_id: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> list[Classification]: ...

    @overload
    async def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        dialect: Literal["lorax"],
        deadline: float | None = None,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109
        request_id: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> list[list[Entity]]: ...

    async def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        dialect: Literal["vllm", "lorax"] = "vllm",
        adapter: str | None = None,
        deadline: float | None = None,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  # so called in every client
        request_id: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> list[Classification] | list[list[Entity]]:
        """A label for each text (vLLM), or the entities in each (LoRAX, which takes no adapter)."""
        if dialect not in ("vllm", "lorax"):
            raise ValueError(f"dialect is {dialect!r}; it must be 'vllm' or 'lorax'")
        if dialect == "lorax" and adapter is not None:
            raise TypeError("LoRAX's /classify takes no adapter; leave adapter away")
        options = resolve(
            {
                "adapter": adapter,
                "deadline": deadline,
                "timeout": timeout,
                "request_id": request_id,
                "extra_body": extra_body,
            },
            timeout=self._session.config.timeout,
        )
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        labels: list[Classification] | list[list[Entity]]
        if dialect == "vllm":
            body = {"model": options.adapter or BASE_MODEL, "input": texts}
            exchange = self._exchange("/classify", body, options)
            labels = _labels(await answer_to(exchange, _VllmAnswer))
        else:
            exchange = self._exchange("/classify_batch", {"inputs": texts}, options)
            labels = _entities(await answer_to(exchange, list[list[_LoraxEntity]]))
        if len(labels) != len(texts):
            problem = StreamProtocolError(f"{len(labels)} answers came for {len(texts)} inputs")
            exchange.describe(problem)
            raise problem
        return labels

    def _exchange(self, path: str, body: dict[str, Any], options: CallOptions) -> Exchange:
        return self._session.exchange(
            "POST",
            path,
            options=options,
            body=encode_body(body, options.extra_body),
            takes_turn=True,
            any_server=True,
        )


def _labels(answer: _VllmAnswer) -> list[Classification]:
    items = sorted(answer.data, key=lambda item: item.index)
    return [Classification(item.label, tuple(item.probs)) for item in items]


def _entities(answer: list[list[_LoraxEntity]]) -> list[list[Entity]]:
    return [
        [Entity(item.entity_group, item.word, item.score, item.start, item.end) for item in of]
        for of in answer
    ]
