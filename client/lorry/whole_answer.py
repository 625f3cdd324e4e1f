"""What is made of an answer that has come whole. No I/O: both clients read theirs with it."""

from __future__ import annotations

import time
from typing import TypeVar

import msgspec

from lorry.assembly import Dialect, GenerationBuilder
from lorry.errors import StreamProtocolError
from lorry.generation import Generation
from lorry.options import CallOptions
from lorry.timing import Stopwatch

_T = TypeVar("_T")


def whole_generation(
    body: bytes, dialect: Dialect, stopwatch: Stopwatch, *, options: CallOptions, endpoint: str
) -> Generation:
    """The generation that a body holds. Raises ServerStreamError or StreamProtocolError."""
    builder = GenerationBuilder(dialect)
    keeps_tokens = "logprobs" in options.sampling
    builder.add_answer(body, t_ns=time.perf_counter_ns(), keeps_tokens=keeps_tokens)
    return builder.build(stopwatch, options=options, endpoint=endpoint, keeps_tokens=keeps_tokens)


def decoded(body: bytes, kind: type[_T], *, path: str) -> _T:
    """A body as what the route `path` answers. Raises StreamProtocolError."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise StreamProtocolError(f"not an answer of {path}: {error}", snippet=body) from error
