"""`client.embeddings`: texts as vectors, by OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Unpack

import msgspec

from lorry.errors import StreamProtocolError
from lorry.exchange import Exchange
from lorry.options import resolve
from lorry.request_body import BASE_MODEL
from lorry.request_options import EmbedOptions
from lorry.session import Session
from lorry.texts_request import as_texts, ask_about, check_one_each
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
        self, inputs: str | Sequence[str], **options: Unpack[EmbedOptions]
    ) -> Embeddings:
        """One vector for each text, in one request; see `lorry.request_options.EmbedOptions`.

        `extra_body={"encoding_format": "base64"}` has them sent in a third of the bytes. Raises
        ClientError, and TypeError for an unknown option.
        """
        resolved = resolve(options, timeout=self._session.config.timeout, known=EmbedOptions)
        texts = as_texts(inputs)

        def read(answer: _Answer, exchange: Exchange) -> Embeddings:
            check_one_each(answer.data, texts, called="vectors")
            items = sorted(answer.data, key=lambda item: item.index)
            return Embeddings(
                vectors=tuple(_vector(item.embedding) for item in items),
                model=answer.model,
                prompt_tokens=None if answer.usage is None else answer.usage.prompt_tokens,
                request_id=exchange.call.request_id,
                endpoint=exchange.endpoint,
                timing=exchange.stopwatch.snapshot(),
            )

        return await ask_about(
            texts,
            session=self._session,
            path=PATH,
            body={"model": resolved.adapter or BASE_MODEL, "input": texts, **resolved.sampling},
            options=resolved,
            answer_type=_Answer,
            read=read,
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
