"""A streamed generation: an object to iterate, cancel and close, not a generator."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self

from lorry.assembly import GenerationBuilder
from lorry.call_outcome import not_a_stream, unfinished
from lorry.errors import (
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    StreamCancelled,
    StreamTruncated,
)
from lorry.exchange import Exchange
from lorry.generation import Generation, Token
from lorry.intake import Intake
from lorry.options import CallOptions
from lorry.stream_events import Finished, KeepAlive, Started, StreamEvent
from lorry.telemetry import Observation
from lorry.timing import Timing
from lorry.transports.base import WireResponse


class TokenStream:
    """Tokens as they come. The request goes out on `async with` or at the first iteration.

        async with client.stream("Once upon a time", max_tokens=50) as stream:
            async for token in stream:
                print(token.text, end="")
        print(stream.partial.usage)

    Leaving the block early closes the connection, and the server stops. Iterated without a block
    and left early, a stream holds its connection until `aclose`. One task reads at a time.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        builder: GenerationBuilder,
        options: CallOptions,
        observe: Callable[[], Observation] | None = None,
    ) -> None:
        self.request_id = options.request_id
        self.adapter = options.adapter
        self._exchange = exchange
        self._builder = builder
        self._options = options
        self._observe = observe
        self._observation: Observation | None = None
        self._intake = Intake(builder)
        self._ready: deque[Token] = deque()
        self._state: Literal["new", "open", "ended"] = "new"
        self._failure: ClientError | None = None
        self._is_reading = False
        self._reader_left: asyncio.Event | None = None  # for whoever closes under a reader

    def __repr__(self) -> str:
        usage = self._builder.usage
        facts = [self.adapter or "base", self._state, f"{usage.completion_tokens or 0} tokens"]
        if self._failure is not None:
            facts.append(type(self._failure).__name__)
        return f"TokenStream({', '.join(facts)}, request_id={self.request_id!r})"

    def _repr_html_(self) -> str:
        from lorry.notebook import generation_html  # needed in notebooks only

        return generation_html(self.partial)

    async def __aenter__(self) -> Self:
        if self._state == "new":
            await self._advance()
            if self._failure is not None:
                raise self._failure
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._state == "ended":
                raise StopAsyncIteration
            await self._advance()
        return self._ready.popleft()

    def text_stream(self) -> TextStream:
        """The same stream as pieces of text, empty ones left out; all views share one position."""
        return TextStream(self)

    def events(self) -> EventStream:
        """The same stream with what else happens in it; all views share one position.

        `Started`, then `Token`s and `KeepAlive`s as they come, at the end the `Usage` and `Finished`,
        which has the whole. A stream that fails raises instead of finishing.
        """
        return EventStream(self)

    def nowait(self) -> list[Token]:
        """All tokens that have been received and not been iterated over, without waiting."""
        if self._state == "open" and not self._is_reading and not self._builder.has_ended:
            try:
                self._take(self._exchange.read_nowait())
            except (ConnectionLost, DeadlineExceeded) as error:
                self._lose(error)
            except ClientError as error:
                self._fail(error)
        tokens = list(self._ready)
        self._ready.clear()
        if not tokens and self._failure is not None:
            raise self._failure
        return tokens

    async def final(self) -> Generation:
        """Read to the end and return the whole; costs nothing when the end was reached before."""
        async for _ in self:
            pass
        return self.partial

    async def text(self) -> str:
        """Read to the end and return the whole text."""
        return (await self.final()).text

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
    def endpoint(self) -> str:
        """The address of the server; "" while none of several was chosen."""
        return self._exchange.endpoint

    @property
    def timing(self) -> Timing:
        """The record so far."""
        return self._builder.timing(self._exchange.stopwatch)

    def cancel(self, reason: str = "") -> None:
        """End the stream, from any task (from a thread: `loop.call_soon_threadsafe`).

        The connection is closed at once, and the task that reads, or reads next, gets
        StreamCancelled. Does nothing when the stream has ended.
        """
        if self._state != "ended":
            self._ready.clear()
            self._exchange.cancel(reason)

    async def aclose(self) -> None:
        """Close the stream; returns when the connection is closed or given back."""
        if self._state != "ended":
            if self._is_reading:
                self._exchange.cancel("another task closed it")
            self._fail(StreamCancelled("the stream was closed before its end"))
        await self._exchange.close()
        if self._is_reading:  # another task, which closes what it had begun to open
            self._reader_left = self._reader_left or asyncio.Event()
            await self._reader_left.wait()

    def __del__(self) -> None:
        if getattr(self, "_state", "new") == "open":
            with contextlib.suppress(RuntimeError):  # its loop may be closing, and all with it
                self._exchange.drop()
            self._report(StreamCancelled("the stream was forgotten"))
            warnings.warn("a TokenStream was not closed", ResourceWarning, stacklevel=2)

    async def _advance(self) -> None:
        """Make one step: open, read once, or finish. Failures are kept, behind ready tokens."""
        if self._is_reading:
            raise RuntimeError("two tasks read one stream at the same time")
        self._is_reading = True
        try:
            if self._state == "new":
                await self._open()
            elif self._builder.has_ended:
                self._end()
                await self._exchange.finish()
            else:
                is_complete = self._builder.is_complete
                data = await (self._exchange.read_end() if is_complete else self._exchange.read())
                if data:
                    self._take(data)
                else:
                    self._end_of_body()
        except ConnectionLost as error:
            self._lose(error)
        except ClientError as error:
            self._fail(error)
        except BaseException:  # its task is cancelled, or its loop has gone
            if self._state != "ended":
                self._fail(StreamCancelled("the task that read the stream was cancelled"))
            raise
        finally:
            self._is_reading = False
            if self._reader_left is not None:
                self._reader_left.set()
        if self._state == "ended":
            await self._exchange.close()

    async def _open(self) -> None:
        try:
            response = await self._send()
        except ConnectionLost as error:
            self._fail(error)  # of a stream that has not begun nothing was cut off
            return
        self._state = "open"
        content_type = response.headers.get("content-type", "")
        if not content_type.lower().startswith("text/event-stream"):
            raise not_a_stream(content_type)

    async def _send(self) -> WireResponse:
        if self._observe is None:
            return await self._exchange.open()
        self._observation = self._observe()
        with self._observation.sending():
            return await self._exchange.open()

    def _take(self, data: bytes) -> None:
        self._intake.take(data, self._exchange.stopwatch, self._ready)
        if self._ready:
            self._exchange.first_token_came()

    def _end_of_body(self) -> None:
        if self._builder.is_complete:
            self._end()
        else:
            self._fail(unfinished())

    def _lose(self, error: ConnectionLost | DeadlineExceeded) -> None:
        """What ends a stream after its finish reason takes nothing of the text away."""
        if self._builder.is_complete:
            self._end()
            return
        if isinstance(error, DeadlineExceeded):
            self._fail(error)
            return
        truncated = StreamTruncated(f"the stream was cut: {error}")
        truncated.__cause__ = error
        self._fail(truncated)

    def _fail(self, error: ClientError) -> None:
        if self._failure is not None:
            return  # what a reader meets whose stream another task has closed
        self._state = "ended"
        self._exchange.abort()
        self._exchange.describe(error)
        error.partial = self.partial
        self._failure = error
        self._report(error)

    def _end(self) -> None:
        self._state = "ended"
        self._exchange.end()
        self._report(None)

    def _report(self, error: ClientError | None) -> None:
        observation, self._observation = self._observation, None
        if observation is not None:
            observation.ended(self.partial, error)


class TextStream:
    """The text of a `TokenStream`, piece by piece."""

    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while True:
            token = await anext(self._stream)
            if token.text:
                return token.text


class EventStream:
    """What happens in a `TokenStream`, one event after another."""

    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream
        self._has_started = False
        self._num_comments = 0  # those that were told of
        self._at_the_end: Iterator[StreamEvent] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        stream = self._stream
        stopwatch, intake = stream._exchange.stopwatch, stream._intake
        if not self._has_started:
            await stream.__aenter__()
            self._has_started = True
            began_ns = stopwatch.attempts[-1].headers_ns if stopwatch.attempts else None
            return Started(stream.request_id, stream.endpoint, began_ns)
        while not stream._ready:
            count = intake.num_comments - self._num_comments
            if count:
                self._num_comments += count
                return KeepAlive(count, stopwatch.last_read_ns)
            if stream._failure is not None:
                raise stream._failure
            if stream._state == "ended":
                return self._next_at_the_end()
            await stream._advance()
        return stream._ready.popleft()

    def _next_at_the_end(self) -> StreamEvent:
        if self._at_the_end is None:
            generation = self._stream.partial
            self._at_the_end = iter((generation.usage, Finished(generation)))
        event = next(self._at_the_end, None)
        if event is None:
            raise StopAsyncIteration
        return event
