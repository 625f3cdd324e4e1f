"""A request before it is sent, and the hash by which streams of them are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lorry_loadtest.routes import Route


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """Everything about one request that is decided before the run.

    `index` is its place in the run's stream, `at_ns` its arrival from the start of the run (None in
    a closed loop, where a user decides). `history` are the turns of a conversation before this one,
    the user's and the assistant's in turn. `adapter` None is the base model. `canary` names the
    known answer that it must give. `patience_s` is how long its user waits for the whole answer.
    """

    index: int
    prompt: str
    max_tokens: int
    adapter: str | None
    at_ns: int | None = None
    history: tuple[str, ...] = ()
    canary: str | None = None
    patience_s: float | None = None
    route: Route = "completions"

    @property
    def num_prompt_words(self) -> int:
        return sum(len(text.split()) for text in (*self.history, self.prompt))

    @property
    def prompt_hash(self) -> str:
        """The first 64 bits of SHA-256 over the turns, in hexadecimal."""
        return hashlib.sha256("\0".join((*self.history, self.prompt)).encode()).hexdigest()[:16]


class _Hashable(Protocol):
    """What a planned request and the record of it have in common."""

    @property
    def index(self) -> int: ...
    @property
    def prompt_hash(self) -> str: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def adapter(self) -> str | None: ...
    @property
    def route(self) -> str: ...


class StreamHash:
    """SHA-256 over index, time, prompt hash, lengths, adapter and route, in the order of indices."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, request: _Hashable, *, at_ns: int | None, num_prompt_words: int) -> None:
        line = (
            f"{request.index}|{'-' if at_ns is None else at_ns}|{request.prompt_hash}|"
            f"{num_prompt_words}|{request.max_tokens}|{request.adapter or ''}|{request.route}\n"
        )
        self._hash.update(line.encode())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def joined_hash(hashes: Sequence[str]) -> str:
    """Of several streams: that of their hashes, or the only one itself."""
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def stream_hash(requests: Iterable[PlannedRequest]) -> str:
    """Of a whole stream, in hexadecimal; the requests come in the order of their indices."""
    stream = StreamHash()
    for request in requests:
        stream.add(request, at_ns=request.at_ns, num_prompt_words=request.num_prompt_words)
    return stream.hexdigest()
