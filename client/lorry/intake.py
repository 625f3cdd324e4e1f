"""From the bytes of a stream to its tokens, each stamped with the moment its bytes came. No I/O."""

from __future__ import annotations

from collections.abc import MutableSequence

from lorry.assembly import GenerationBuilder
from lorry.errors import StreamProtocolError
from lorry.generation import Token
from lorry.sse import SSEDecoder
from lorry.timing import Stopwatch


class Intake:
    """Decodes what was read and adds it to a generation."""

    __slots__ = ("_decoder", "_num_bytes", "builder")

    def __init__(self, builder: GenerationBuilder) -> None:
        self.builder = builder
        self._decoder = SSEDecoder()
        self._num_bytes = 0

    @property
    def num_comments(self) -> int:
        """Those that have come, which servers send to keep a connection open."""
        return self._decoder.num_comments

    def take(self, data: bytes, stopwatch: Stopwatch, ready: MutableSequence[Token]) -> None:
        """Put the tokens that `data`, read just now, completes behind those that are ready.

        Raises what the server reports, and StreamProtocolError for what cannot be read; tokens that
        came before it are ready then.
        """
        t_ns = stopwatch.last_read_ns
        for event in self._decoder.feed(data):
            try:
                tokens = self.builder.add_event(event.data, t_ns=t_ns)
            except StreamProtocolError as error:
                error.offset = self._num_bytes + max(0, data.find(event.data))
                raise
            if tokens:
                stopwatch.tokens_came(len(tokens))
                ready.extend(tokens)
        self._num_bytes += len(data)
