"""One call on the wire: its attempts, its deadline, its stopwatch, and the bytes that come back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lorry.call_outcome import cancelled, concluded, too_late
from lorry.error_mapping import status_error
from lorry.errors import (
    ClientError,
    ConnectionLost,
    Phase,
    StreamCancelled,
    StreamProtocolError,
)
from lorry.retry import RetryPolicy
from lorry.timeout import Timeout
from lorry.timing import Stopwatch
from lorry.transports.base import Transport, WireRequest, WireResponse

MAX_ERROR_BODY_BYTES = 64 * 1024
# how long the end of a finished body is waited for, so that its connection can be used again
END_GRACE_S = 0.25

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be sent, where, and in what time. `api_key` only serves to blot it out."""

    method: str
    base_url: str
    path: str
    request_id: str
    timeout: Timeout
    retry: RetryPolicy
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    adapter: str | None = None
    api_key: str | None = field(default=None, repr=False)


class Exchange:
    """Sends a call, again where that is safe, and reads the answer within the call's limits.

    Every wait goes through `_within`, which ends it at its limit, at `cancel`, or when its task is
    cancelled; in each case the connection is closed before the error leaves.
    """

    def __init__(self, call: Call, *, transport: Transport) -> None:
        now = time.perf_counter_ns()
        self.call = call
        self.stopwatch = Stopwatch(created_ns=now, intended_ns=now)
        self._transport = transport
        self._response: WireResponse | None = None
        self._started_at = 0.0  # on the loop's clock, as all times of waiting
        self._scope: asyncio.Timeout | None = None
        self._cancel_reason: str | None = None
        self._first_token_came = False

    async def open(self) -> WireResponse:
        """Send until an answer with status 2xx begins; raises a described ClientError."""
        self._started_at = asyncio.get_running_loop().time()
        failures: list[ClientError] = []
        try:
            while True:
                try:
                    self._response = await self._attempt()
                    return self._response
                except ClientError as failure:
                    failures.append(failure)
                delay_s = self.call.retry.delay_s(
                    failures[-1],
                    num_attempts=len(failures),
                    remaining_s=self._remaining_s(),
                    random=random.random,
                )
                if delay_s is None:
                    raise concluded(failures)
                await self._within(asyncio.sleep(delay_s), phase="queue")
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
            async with asyncio.timeout(END_GRACE_S):
                while self._response is not None and await self._response.read_some():
                    pass
        except (TimeoutError, ConnectionLost):
            pass  # the connection cannot be used again; nothing else is lost
        finally:
            await self.close()

    async def close(self) -> None:
        """Give back or close the connection; returns when that is done. Harmless when repeated."""
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()

    def abort(self) -> None:
        """Close the connection now, from wherever."""
        if self._response is not None:
            self._response.abort()

    def cancel(self, reason: str) -> None:
        """End the call: whoever waits in it gets StreamCancelled."""
        self._cancel_reason = reason
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())
        self.abort()

    def first_token_came(self) -> None:
        """From now on the limit on the first token does not hold."""
        self._first_token_came = True

    async def _attempt(self) -> WireResponse:
        call = self.call
        attempt = self.stopwatch.start_attempt(time.perf_counter_ns())
        headers = {**call.headers, "x-request-id": call.request_id}
        if len(self.stopwatch.attempts) > 1:
            headers["x-request-attempt"] = str(len(self.stopwatch.attempts))
        request = WireRequest(
            method=call.method,
            url=call.base_url + call.path,
            headers=headers,
            body=call.body,
            connect_timeout_s=call.timeout.connect,
        )
        response = await self._within(
            self._transport.send(request, attempt=attempt), phase="headers"
        )
        attempt.headers_ns = time.perf_counter_ns()
        self._response = response
        if not 200 <= response.status < 300:
            body = await self._read_error_body(response)
            await self.close()
            raise status_error(response.status, response.headers, body, secret=call.api_key)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            await self.close()
            raise StreamProtocolError(f"the answer is {encoding} encoded, which was not asked for")
        return response

    async def _read_error_body(self, response: WireResponse) -> bytes:
        body = b""
        try:
            while len(body) < MAX_ERROR_BODY_BYTES:
                piece = await self._within(response.read_some(), phase="headers")
                if not piece:
                    break
                body += piece
        except ConnectionLost:
            pass  # the status says enough
        return body

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
            raise StreamCancelled(cancelled(self._cancel_reason))
        try:
            async with asyncio.timeout_at(when) as scope:
                self._scope = scope
                return await operation
        except BaseException as error:
            self.abort()
            await self.close()
            if isinstance(error, asyncio.CancelledError):
                # a socket that `send` aborted is closed by the loop's next turn
                await asyncio.sleep(0)
                raise
            if self._cancel_reason is not None:
                raise StreamCancelled(cancelled(self._cancel_reason)) from None
            if isinstance(error, TimeoutError):
                if limit is not None:
                    raise too_late(limit[1], limit[2]) from None
                raise too_late(self._phase(phase), total or 0.0) from None
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
        error.request_id = self.call.request_id
        error.endpoint = self.call.base_url
        error.adapter = self.call.adapter
        error.attempts = len(self.stopwatch.attempts)
        if self.stopwatch.done_ns is None:
            self.stopwatch.done_ns = time.perf_counter_ns()
        error.timing = self.stopwatch.snapshot()
