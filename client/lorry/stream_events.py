"""What `TokenStream.events` tells of a stream beside its tokens, which are `Token`s themselves."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from lorry.generation import Generation, Token, Usage


class Started(msgspec.Struct, frozen=True):
    """The answer has begun: its head came at `t_ns` (`time.perf_counter_ns`), None if unknown."""

    request_id: str
    endpoint: str
    t_ns: int | None


class KeepAlive(msgspec.Struct, frozen=True):
    """The server said that it is still there: `count` comments, in the read at `t_ns`."""

    count: int
    t_ns: int


class Finished(msgspec.Struct, frozen=True):
    """The end of a stream that is whole."""

    generation: Generation


StreamEvent: TypeAlias = Started | Token | KeepAlive | Usage | Finished
