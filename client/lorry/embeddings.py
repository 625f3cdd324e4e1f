"""`client.embeddings`: texts as vectors, by OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from lorry.errors import StreamProtocolError
from lorry.exchange import Exchange
from lorry.options import resolve
from lorry.request_body import BASE_MODEL, encode_body
from lorry.session import Session, answer_to
from lorry.telemetry import observed
from lorry.timeout import Timeout
from lorry.timing import Timing

PATH = "/v1/embeddings"


class Embeddings(msgspec.Struct, frozen=True):
    """One vector for each input, in its order: float32 arrays, which numpy reads without a copy.

    `prompt_tokens` is what the server counted, None where it does not say. `timing` is that of a
    call which is not streamed.
    """

    vectors: tuple[array[float], ...]
    model: str
    prompt_tokens: int | None
    request_id: str
    endpoint: str
    timing: Timing

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> array[float]:
        return self.vectors[index]

    def __iter__(self) -> Iterator[array[float]]:
        return iter(self.vectors)

    def __repr__(self) -> str:
        size = len(self.vectors[0]) if self.vectors else 0
        return f"Embeddings({len(self)} of {size} dimensions, model={self.model!r})"


class _Item(msgspec.Struct, frozen=True):
    embedding: list[float] | str  # numbers, or base64 of little-endian float32
    index: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Item]
    model: str = ""
    usage: _Usage | None = None


class Embed:
    """`await client.embeddings(texts)`. A server without embeddings answers with its own error."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        adapter: str | None = None,
        dimensions: int | None = None,
        deadline: float | None = None,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  # so called in every client
        request_id: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> Embeddings:
        """One vector for each text, in one request.

        `dimensions` shortens them, on models that can. `extra_body={"encoding_format": "base64"}`
        has them sent in a third of the bytes.
        """
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
        body: dict[str, Any] = {"model": options.adapter or BASE_MODEL, "input": texts}
        if dimensions is not None:
            body["dimensions"] = dimensions
        exchange = self._session.exchange(
            "POST",
            PATH,
            options=options,
            body=encode_body(body, options.extra_body),
            takes_turn=True,
            any_server=True,
        )
        telemetry = self._session.telemetry
        if telemetry is None:
            return await _embed(exchange, num_texts=len(texts))
        observation = telemetry.begin(PATH, texts, options, is_streamed=False)
        return await observed(observation, _embed(exchange, num_texts=len(texts)))


async def _embed(exchange: Exchange, *, num_texts: int) -> Embeddings:
    answer = await answer_to(exchange, _Answer)
    items = sorted(answer.data, key=lambda item: item.index)
    try:
        if len(items) != num_texts:
            raise StreamProtocolError(f"{len(items)} vectors came for {num_texts} inputs")
        vectors = tuple(_vector(item.embedding) for item in items)
    except StreamProtocolError as error:
        exchange.describe(error)
        raise
    return Embeddings(
        vectors=vectors,
        model=answer.model,
        prompt_tokens=None if answer.usage is None else answer.usage.prompt_tokens,
        request_id=exchange.call.request_id,
        endpoint=exchange.endpoint,
        timing=exchange.stopwatch.snapshot(),
    )


def _vector(embedding: list[float] | str) -> array[float]:
    if not isinstance(embedding, str):
        return array("f", embedding)
    vector = array("f")
    try:
        vector.frombytes(base64.b64decode(embedding, validate=True))
    except ValueError as error:
        raise StreamProtocolError(f"an embedding is not base64 of float32: {error}") from error
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
