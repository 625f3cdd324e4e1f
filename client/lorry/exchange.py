"""One call on the wire: its attempts, its deadline, its stopwatch, and the bytes that come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from lorry.attempts import Attempts, Call, Outlet
from lorry.errors import (
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    Phase,
    StreamCancelled,
)
from lorry.timing import Stopwatch
from lorry.transports.base import WireResponse

# how long the end of a finished body is waited for, so that its connection can be used again
END_GRACE_S = 0.25

_T = TypeVar("_T")


class Exchange:
    """Sends a call, again where that is safe, and reads the answer within the call's limits.

    Every wait goes through `_within`, which ends it at its limit, at `cancel`, or when its task is
    cancelled; in each case the connection is closed before the error leaves.
    """

    def __init__(self, call: Call, *, outlet: Outlet) -> None:
        now = time.perf_counter_ns()
        self.call = call
        self.stopwatch = Stopwatch(created_ns=now, intended_ns=now)
        self._attempts = Attempts(
            call,
            outlet,
            stopwatch=self.stopwatch,
            within=self._within,
            remaining_s=self._remaining_s,
        )
        self._response: WireResponse | None = None
        self._started_at = 0.0  # on the loop's clock, as all times of waiting
        self._scope: asyncio.Timeout | None = None
        self._cancel_reason: str | None = None
        self._first_token_came = False

    @property
    def endpoint(self) -> str:
        """The address of the server that has the call; "" while none of several was chosen."""
        return self._attempts.endpoint

    async def open(self) -> WireResponse:
        """Send until an answer with status 2xx begins; raises a described ClientError."""
        self._started_at = asyncio.get_running_loop().time()
        try:
            self._response = await self._attempts.run()
            return self._response
        except ClientError as error:
            self.describe(error)
            raise

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end; stamps the stopwatch."""
        assert self._response is not None
        try:
            data = await self._within(
                self._response.read_some(), phase="total", limit=self._read_limit()
            )
        except ClientError as error:
            self.describe(error)
            raise
        if data:
            self.stopwatch.received(time.perf_counter_ns())
        return data

    def read_nowait(self) -> bytes:
        """What has come already, b"" if nothing or if the call is not open."""
        if self._response is None or self._cancel_reason is not None:
            return b""
        try:
            data = self._response.read_nowait()
        except ClientError as error:
            self.describe(error)
            raise
        if data:
            self.stopwatch.received(time.perf_counter_ns())
        return data

    async def read_all(self) -> bytes:
        """The whole body, and the end of the call."""
        self._first_token_came = True  # it cannot be seen in a body that is not a stream
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        self.stopwatch.done_ns = time.perf_counter_ns()
        await self.close()
        return b"".join(pieces)

    async def finish(self) -> None:
        """Wait shortly for the end of a body whose content is complete, then close."""
        self.stopwatch.done_ns = time.perf_counter_ns()
        try:
            async with asyncio.timeout(self._end_grace_s()):
                while self._response is not None and await self._response.read_some():
                    pass
        except (TimeoutError, ConnectionLost):
            pass  # the connection cannot be used again; nothing else is lost
        finally:
            await self.close()

    def _end_grace_s(self) -> float:
        remaining_s = self._remaining_s()
        return END_GRACE_S if remaining_s is None else max(0.0, min(END_GRACE_S, remaining_s))

    async def close(self) -> None:
        """Give back or close the connection; returns when that is done. Harmless when repeated."""
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()
        self._attempts.leave(None)

    def abort(self) -> None:
        """Close the connection now, from wherever."""
        if self._response is not None:
            self._response.abort()
            self._attempts.leave(None)

    def cancel(self, reason: str) -> None:
        """End the call: whoever waits in it gets StreamCancelled."""
        self._cancel_reason = reason
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())
        self.abort()

    def first_token_came(self) -> None:
        """From now on the limit on the first token does not hold."""
        self._first_token_came = True

    async def _within(
        self,
        operation: Coroutine[Any, Any, _T],
        *,
        phase: Phase,
        limit: tuple[float, Phase, float] | None = None,
    ) -> _T:
        """Await one operation until the call's end or `limit`: when, its phase, its seconds."""
        total = self.call.timeout.total
        ends_at = None if total is None else self._started_at + total
        when = ends_at
        if limit is not None and (when is None or limit[0] < when):
            when = limit[0]
        else:
            limit = None
        if self._cancel_reason is not None:
            operation.close()
            raise StreamCancelled(_cancelled(self._cancel_reason))
        try:
            async with asyncio.timeout_at(when) as scope:
                self._scope = scope
                return await operation
        except BaseException as error:
            ended_by = error
            if isinstance(error, asyncio.CancelledError):
                pass  # the caller's business
            elif self._cancel_reason is not None:
                ended_by = StreamCancelled(_cancelled(self._cancel_reason))
            elif isinstance(error, TimeoutError) and scope.expired():
                if limit is not None:
                    ended_by = _too_late(limit[1], limit[2])
                else:
                    ended_by = _too_late(self._phase(phase), total or 0.0)
            self._attempts.leave(ended_by)
            self.abort()
            await self.close()
            if ended_by is not error:
                raise ended_by from None
            if isinstance(error, asyncio.CancelledError):
                # a socket that `send` aborted is closed by the loop's next turn
                await asyncio.sleep(0)
            raise
        finally:
            self._scope = None

    def _phase(self, phase: Phase) -> Phase:
        """Narrow down what was being waited for when the whole call ran out of time."""
        attempts = self.stopwatch.attempts
        if phase == "headers" and attempts[-1].connected_ns is None:
            return "connect"
        if phase == "total" and not self._first_token_came:
            return "first_token"
        return phase

    def _read_limit(self) -> tuple[float, Phase, float] | None:
        """The nearer of the limits on the first token and on silence."""
        limits: list[tuple[float, Phase, float]] = []
        first_token, idle = self.call.timeout.first_token, self.call.timeout.idle
        if first_token is not None and not self._first_token_came:
            limits.append((self._started_at + first_token, "first_token", first_token))
        if idle is not None:
            limits.append((asyncio.get_running_loop().time() + idle, "idle", idle))
        return min(limits, default=None)

    def _remaining_s(self) -> float | None:
        total = self.call.timeout.total
        if total is None:
            return None
        return self._started_at + total - asyncio.get_running_loop().time()

    def describe(self, error: ClientError) -> None:
        """Write on an error which call it ended, and when."""
        self._attempts.leave(error)
        error.request_id = self.call.request_id
        error.endpoint = self.endpoint
        error.adapter = self.call.adapter
        error.attempts = len(self.stopwatch.attempts)
        if self.stopwatch.done_ns is None:
            self.stopwatch.done_ns = time.perf_counter_ns()
        error.timing = self.stopwatch.snapshot()


_WAITING_FOR: dict[Phase, str] = {
    "queue": "waiting to send the request",
    "connect": "connecting",
    "headers": "waiting for the answer to begin",
    "first_token": "waiting for the first token",
    "idle": "waiting for the next bytes of the stream",
    "total": "receiving the answer",
}


def _too_late(phase: Phase, limit_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{limit_s:g} s ran out while {_WAITING_FOR[phase]}", phase=phase, limit_s=limit_s
    )


def _cancelled(reason: str) -> str:
    return f"the stream was cancelled: {reason}" if reason else "the stream was cancelled"
