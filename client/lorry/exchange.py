"""One call on the wire: its turn, its attempts, its stopwatch, and the bytes that come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from lorry.attempts import Attempts, Call, Outlet
from lorry.errors import (
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    RetriesExhausted,
    StreamCancelled,
)
from lorry.limits.base import Limiter, Permit
from lorry.loop_lag import LoopLag, lag_of
from lorry.patience import Patience
from lorry.stats import CallCounters
from lorry.timing import Stopwatch
from lorry.transports.base import WireResponse

# how long the end of a finished body is waited for, so that its connection can be used again
END_GRACE_S = 0.25
# how long behind a finish reason the counts and [DONE] are waited for: a busy server is slow with these too
TAIL_GRACE_S = 2.0


class Exchange:
    """Sends a call, again where that is safe, and reads the answer within the call's limits.

    A wait that ends early, at its limit, at `cancel` or because its task is cancelled, has closed
    the connection before its error leaves. A call ends when its answer was read or when an error
    was described as its end; then its permit is given back, once.
    """

    __slots__ = (
        "_attempts",
        "_counters",
        "_has_ended",
        "_lag",
        "_lag_since",
        "_limiter",
        "_loop",
        "_outcome",
        "_patience",
        "_permit",
        "_response",
        "call",
        "stopwatch",
    )

    def __init__(
        self,
        call: Call,
        *,
        outlet: Outlet,
        limiter: Limiter | None = None,
        counters: CallCounters | None = None,
    ) -> None:
        now = time.perf_counter_ns()
        self.call = call
        self.stopwatch = Stopwatch(created_ns=now, intended_ns=now)
        self._limiter = limiter
        self._permit: Permit | None = None
        self._counters = counters or CallCounters()
        self._patience = Patience(call.timeout, self.stopwatch)
        self._attempts = Attempts(call, outlet, stopwatch=self.stopwatch, patience=self._patience)
        self._response: WireResponse | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # from `open` on
        self._lag: LoopLag | None = None  # likewise
        self._lag_since = 0.0
        self._outcome: ClientError | None = None
        self._has_ended = False

    @property
    def endpoint(self) -> str:
        """The address of the server that has the call; "" while none of several was chosen."""
        return self._attempts.endpoint

    async def open(self) -> WireResponse:
        """Send until an answer with status 2xx begins; raises a described ClientError."""
        self._begin()
        try:
            await self.be_admitted()
            self.stopwatch.admitted_ns = time.perf_counter_ns()
            self._response = await self._attempts.run(self)
            return self._response
        except ClientError as error:
            self.describe(error)
            raise
        except BaseException:
            self._leave()
            raise

    def read(self) -> Coroutine[Any, Any, bytes]:
        """The next bytes of the body, b"" at its end; stamps the stopwatch.

        What it raises is not described: the reader knows whether it ends the call badly.
        """
        assert self._response is not None
        return self._patience.read(self._response)

    async def read_end(self) -> bytes:
        """What follows when the content is complete, as `read`; b"" also when that takes too long.

        All such reads share one short grace, after which the connection is closed: a server need
        not say that it has ended.
        """
        self._patience.content_came(grace_s=TAIL_GRACE_S)
        try:
            return await self.read()
        except DeadlineExceeded:
            self.end()
            self.stopwatch.done_ns = self.stopwatch.last_read_ns
            return b""

    def read_nowait(self) -> bytes:
        """What has come already, b"" if nothing or if the call is not open; raises as `read`."""
        if self._response is None:
            return b""
        self._patience.check()
        data = self._response.read_nowait()
        if data:
            self.stopwatch.received(time.perf_counter_ns())
        return data

    async def read_all(self) -> bytes:
        """The whole body, and the end of the call; raises a described ClientError."""
        self.first_token_came()  # it cannot be seen in a body that is not a stream
        response = self._response
        assert response is not None
        pieces = []
        try:
            # what is there already, as a short answer is with its headers, is not waited for
            piece = self.read_nowait() or await self.read()
            while piece:
                pieces.append(piece)
                if response.at_end:
                    break
                piece = await self.read()
        except ClientError as error:
            self.describe(error)
            await self.close_connection()  # which a read that does not wait leaves as it is
            raise
        except BaseException:
            self._leave()
            raise
        self.end()
        await self.close_connection()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> None:
        """The content of the answer is complete: the call has ended well."""
        self._conclude(None)

    async def finish(self) -> None:
        """End the call, wait shortly for the end of its body, then close."""
        self.end()
        try:
            async with asyncio.timeout(self._end_grace_s()):
                while self._response is not None and await self._response.read_some():
                    pass
        except (TimeoutError, ConnectionLost):
            pass  # the connection cannot be used again; nothing else is lost
        finally:
            await self.close_connection()

    async def close(self) -> None:
        """End the call and close its connection; returns when that is done.

        A connection whose answer was read to its end is given back instead. Harmless when repeated.
        """
        try:
            await self.close_connection()
        finally:  # also when the task is cancelled while the connection is being closed
            self._leave()

    def abort(self) -> None:
        """Close the connection now, from wherever."""
        if self._response is not None:
            self._response.abort()

    def drop(self) -> None:
        """End a call that was forgotten, in whatever thread it is collected."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drop_here)

    def cancel(self, reason: str) -> None:
        """End the call: whoever waits in it, or would read on, gets StreamCancelled."""
        self._patience.cancel(reason)
        self.abort()
        if self._loop is not None and not self._patience.is_waited_in:
            self._leave()

    @property
    def is_open(self) -> bool:
        """An answer has begun, and may have more to read."""
        return self._response is not None

    def first_token_came(self) -> None:
        """From now on the limit on the first token does not hold."""
        self._patience.first_token_came = True

    def describe(self, error: ClientError) -> None:
        """Write on an error which call it ended, and when; this ends the call."""
        self._conclude(error)
        self._attempts.note(error)
        if isinstance(error, DeadlineExceeded) and not error.limit_s:
            error.limit_s = self.call.timeout.total or 0.0  # of an error that the server wrote
        error.timing = self.stopwatch.snapshot()

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience.begin(self._loop, self)
        self._lag = lag_of(self._loop)
        self._lag_since = self._lag.enter()
        self._counters.num_started += 1

    def _conclude(self, outcome: ClientError | None) -> None:
        """Once: stop the clocks, give back the permit, and count the outcome."""
        counters = self._counters
        if self._has_ended:
            if self._outcome is None and outcome is not None and self._loop is not None:
                # the answer came whole and then could not be made sense of
                self._outcome = outcome
                counters.num_finished -= 1
                counters.num_failed[type(outcome).__name__] += 1
            return
        self._has_ended = True
        self._outcome = outcome
        self._attempts.leave(outcome)
        self.stopwatch.done_ns = time.perf_counter_ns()
        self._patience.stop()
        if self._lag is None:
            return  # it was never opened
        lag = self.stopwatch.loop_lag_max = self._lag.leave(self._lag_since)
        counters.loop_lag_max = max(counters.loop_lag_max, lag)
        if outcome is None:
            counters.num_finished += 1
        elif isinstance(outcome, StreamCancelled):
            counters.num_cancelled += 1
        else:
            counters.num_failed[type(outcome).__name__] += 1
        self._give_back_permit(outcome)

    def _leave(self) -> None:
        """The caller wants no more of it; nothing if the call has ended."""
        if not self._has_ended:
            self._conclude(StreamCancelled("the call was left before its end"))

    def _drop_here(self) -> None:
        self.abort()
        self._leave()

    async def be_admitted(self) -> None:
        """Wait for the limiter's permit, if there is a limiter."""
        if self._limiter is None:
            return
        self._counters.num_queued += 1
        try:
            self._permit = await self._patience.wait(
                _acquire(self._limiter, self.call), phase="queue"
            )
        finally:
            self._counters.num_queued -= 1

    def step_aside(self, failure: ClientError) -> None:
        """Give the permit back while the call waits to be sent again."""
        self._give_back_permit(failure)
        self._counters.num_retries += 1

    def _give_back_permit(self, outcome: ClientError | None) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            if isinstance(outcome, RetriesExhausted):
                outcome = outcome.causes[-1]
            permit.release(outcome=outcome, timing=self.stopwatch.snapshot())

    def _end_grace_s(self) -> float:
        remaining_s = self._patience.remaining_s()
        return END_GRACE_S if remaining_s is None else max(0.0, min(END_GRACE_S, remaining_s))

    async def close_connection(self) -> None:
        """Close it, or give it back when the answer was read to its end."""
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()


async def _acquire(limiter: Limiter, call: Call) -> Permit:
    return await limiter.acquire(adapter=call.adapter, num_tokens=call.num_tokens)
