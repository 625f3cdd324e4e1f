"""A streamed generation for blocking code: an object to iterate, cancel and close."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Literal, Self

from lorry.assembly import GenerationBuilder
from lorry.blocking.exchange import BlockingExchange
from lorry.call_outcome import not_a_stream, unfinished
from lorry.errors import (
    ClientError,
    ConnectionLost,
    StreamCancelled,
    StreamTruncated,
)
from lorry.generation import Generation, Token
from lorry.intake import Intake
from lorry.options import CallOptions
from lorry.timing import Timing


class BlockingTokenStream:
    """Tokens as they come. The request goes out on `with` or at the first iteration.

        with client.stream("Once upon a time", max_tokens=50) as stream:
            for token in stream:
                print(token.text, end="")

    Leaving the block early closes the connection, and the server stops. One thread reads; `cancel`
    may come from any.
    """

    def __init__(
        self, exchange: BlockingExchange, *, builder: GenerationBuilder, options: CallOptions
    ) -> None:
        self.request_id = options.request_id
        self.adapter = options.adapter
        self.endpoint = exchange.call.base_url
        self._exchange = exchange
        self._builder = builder
        self._options = options
        self._intake = Intake(builder)
        self._ready: deque[Token] = deque()
        self._state: Literal["new", "open", "ended"] = "new"
        self._failure: ClientError | None = None

    def __repr__(self) -> str:
        facts = [self.adapter or "base", self._state]
        if self._failure is not None:
            facts.append(type(self._failure).__name__)
        return f"BlockingTokenStream({', '.join(facts)}, request_id={self.request_id!r})"

    def __enter__(self) -> Self:
        if self._state == "new":
            self._advance()
            if self._failure is not None:
                raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._state == "ended":
                raise StopIteration
            self._advance()
        return self._ready.popleft()

    def text_stream(self) -> Iterator[str]:
        """The same stream as pieces of text, empty ones left out; both share one position."""
        return (token.text for token in self if token.text)

    def final(self) -> Generation:
        """Read to the end and return the whole; costs nothing when the end was reached before."""
        for _ in self:
            pass
        return self.partial

    def text(self) -> str:
        """Read to the end and return the whole text."""
        return self.final().text

    @property
    def partial(self) -> Generation:
        """What has been received so far; valid at any moment, also after an error."""
        return self._builder.build(
            self._exchange.stopwatch,
            options=self._options,
            endpoint=self.endpoint,
            keeps_tokens=True,
        )

    @property
    def timing(self) -> Timing:
        """The record so far."""
        return self._builder.timing(self._exchange.stopwatch)

    def cancel(self, reason: str = "") -> None:
        """End the stream, from any thread: its connection is closed, its reader StreamCancelled."""
        if self._state != "ended":
            self._exchange.cancel(reason)

    def close(self) -> None:
        """Close the stream; returns when the connection is closed or kept for another call."""
        if self._state != "ended":
            self._fail(StreamCancelled("the stream was closed before its end"))
        self._exchange.close()

    def __del__(self) -> None:
        if getattr(self, "_state", "new") == "open":
            self._exchange.close()
            warnings.warn("a BlockingTokenStream was not closed", ResourceWarning, stacklevel=2)

    def _advance(self) -> None:
        """Make one step: open, read once, or finish. Failures are kept, behind ready tokens."""
        try:
            if self._state == "new":
                self._open()
            elif self._builder.has_ended:
                self._end()
                self._exchange.finish()
            else:
                self._read()
        except ClientError as error:
            self._fail(error)
        except BaseException:  # ctrl-C, or gevent's kill: the socket must not outlive it
            self.close()
            raise

    def _open(self) -> None:
        headers = self._exchange.open()
        self._state = "open"
        content_type = headers.get("content-type", "")
        if not content_type.lower().startswith("text/event-stream"):
            raise not_a_stream(content_type)

    def _read(self) -> None:
        is_complete = self._builder.is_complete
        try:
            data = self._exchange.read_end() if is_complete else self._exchange.read()
        except ConnectionLost as error:
            if is_complete:  # nothing of the text was lost
                self._end()
                return
            raise StreamTruncated(f"the stream was cut: {error}") from error
        if data:
            self._take(data)
        elif self._builder.is_complete:
            self._end()
            self._exchange.close()
        else:
            raise unfinished()

    def _take(self, data: bytes) -> None:
        self._intake.take(data, self._exchange.stopwatch, self._ready)
        if self._ready:
            self._exchange.first_token_came()

    def _end(self) -> None:
        self._state = "ended"
        if self._exchange.stopwatch.done_ns is None:
            self._exchange.stopwatch.done_ns = time.perf_counter_ns()

    def _fail(self, error: ClientError) -> None:
        self._end()
        self._exchange.close()
        self._exchange.describe(error)
        error.partial = self.partial
        self._failure = error
