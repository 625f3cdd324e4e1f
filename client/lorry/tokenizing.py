"""`client.tokenize` and `client.detokenize`: texts to the server's token ids and back."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import msgspec

from lorry.options import resolve
from lorry.request_body import BASE_MODEL
from lorry.session import Session
from lorry.types.lorax import TokenizeRequest, TokenSpan


class _Detokenized(msgspec.Struct, frozen=True):
    prompt: str


async def tokenize(session: Session, text: str) -> list[int]:
    """LoRAX's `/tokenize`."""
    spans = await session.fetch(
        "POST",
        "/tokenize",
        list[TokenSpan],
        options=resolve({}, timeout=session.config.timeout),
        body=msgspec.json.encode(TokenizeRequest(inputs=text)),
        any_server=True,
    )
    return [span.id for span in spans]


async def detokenize(session: Session, token_ids: Sequence[int]) -> str:
    """vLLM's `/detokenize`."""
    answer = await session.fetch(
        "POST",
        "/detokenize",
        _Detokenized,
        options=resolve({}, timeout=session.config.timeout),
        body=msgspec.json.encode(
            {"model": BASE_MODEL, "tokens": [operator.index(token_id) for token_id in token_ids]}
        ),
        any_server=True,
    )
    return answer.prompt
