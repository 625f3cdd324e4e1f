"""How long a call waits for each thing, and the error that ends a wait which lasted too long."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from lorry.alarm import Alarm
from lorry.call_outcome import cancelled, too_late
from lorry.deadlines import Deadlines, deadlines_of
from lorry.errors import ClientError, Phase
from lorry.timeout import Timeout
from lorry.timing import Stopwatch
from lorry.transports.base import WireResponse

_T = TypeVar("_T")
# when a read must have returned, on the loop's clock; what it is called then; its length in seconds
_ReadLimit = tuple[float, Phase, float]


class Connected(Protocol):
    """What has a connection: `abort` closes it at once, `close_connection` returns when it is closed."""

    def abort(self) -> None: ...

    async def close_connection(self) -> None: ...


class Patience:
    """The limits of one call. All its waits are made here, and ended at their limits.

    The call is known from `begin` to `stop`, between which there may be waits.
    """

    __slots__ = (
        "_alarm",
        "_call",
        "_deadlines",
        "_grace",
        "_limits_reads",
        "_loop",
        "_started_at",
        "_stopwatch",
        "_timeout",
        "cancel_reason",
        "first_token_came",
    )

    def __init__(self, timeout: Timeout, stopwatch: Stopwatch) -> None:
        self.cancel_reason: str | None = None
        self.first_token_came = False
        self._timeout = timeout
        self._stopwatch = stopwatch
        self._limits_reads = timeout.needs_stream
        self._grace: _ReadLimit | None = None
        self._started_at = 0.0  # on the loop's clock, as all times of waiting
        self._alarm: Alarm | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadlines: Deadlines | None = None
        self._call: Connected | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, call: Connected) -> None:
        """The call's time begins to run."""
        total = self._timeout.total
        self._loop = loop
        self._started_at = loop.time()
        alarm = self._alarm = Alarm(loop, when_over=call.abort)
        self._call = call
        if total is not None:
            self._deadlines = deadlines_of(loop)
            self._deadlines.join(alarm, began_at=self._started_at, total_s=total)

    def stop(self) -> None:
        """The call has ended."""
        alarm, total = self._alarm, self._timeout.total
        if alarm is not None:
            alarm.stop()
            if self._deadlines is not None and total is not None:
                self._deadlines.leave(alarm, total_s=total)
        self._alarm = self._call = None

    def cancel(self, reason: str) -> None:
        """Whoever waits, or waits next, gets StreamCancelled."""
        self.cancel_reason = reason
        if self._alarm is not None:
            self._alarm.interrupt()

    def content_came(self, *, grace_s: float) -> None:
        """The answer is complete: for what follows it no more than `grace_s` in all are waited."""
        if self._grace is None and self._loop is not None:
            self._grace = (self._loop.time() + grace_s, "total", grace_s)
            self._limits_reads = True

    @property
    def is_waited_in(self) -> bool:
        return self._alarm is not None and self._alarm.is_waited_for

    def check(self) -> None:
        """Raise what a wait that began now would raise at once."""
        if self.cancel_reason is not None or (self._alarm is not None and self._alarm.is_over):
            raise self._interruption("total", None)

    def remaining_s(self) -> float | None:
        """What is left of the total; None without one."""
        total = self._timeout.total
        if total is None or self._loop is None:
            return total
        return self._started_at + total - self._loop.time()

    async def wait(self, operation: Coroutine[Any, Any, _T], *, phase: Phase) -> _T:
        """Await one operation; if it fails or is not waited for, the connection is closed first.

        Raises DeadlineExceeded at the end of the call's time, StreamCancelled after `cancel`, and
        otherwise what the operation raises.
        """
        try:
            alarm = self._begin_wait(phase, None)
        except ClientError:
            operation.close()
            raise
        try:
            result = await operation
        except BaseException as error:
            await self._leave_wait(alarm, error, phase, None)
            raise
        alarm.end()
        return result

    async def read(self, response: WireResponse) -> bytes:
        """Await the next bytes of a body, b"" at its end, and stamp them; fails as `wait` does.

        The limits on the first token and on silence hold too. A stream comes here for every event,
        which is why this is not written with `wait`.
        """
        limit = self._read_limit() if self._limits_reads else None
        alarm = self._begin_wait("total", limit)
        try:
            data = await response.read_some()
        except BaseException as error:
            await self._leave_wait(alarm, error, "total", limit)
            raise
        at_ns = time.perf_counter_ns()
        alarm.end()
        if data:
            self._stopwatch.received(at_ns)
        return data

    def _read_limit(self) -> _ReadLimit | None:
        """The nearest of the limits that hold for a read that begins now; None if it is the total."""
        limits: list[_ReadLimit] = []
        first_token, idle = self._timeout.first_token, self._timeout.idle
        if first_token is not None and not self.first_token_came:
            limits.append((self._started_at + first_token, "first_token", first_token))
        if idle is not None:
            assert self._loop is not None
            limits.append((self._loop.time() + idle, "idle", idle))
        if self._grace is not None:
            limits.append(self._grace)
        nearest = min(limits, default=None)
        total = self._timeout.total
        if nearest is not None and total is not None and self._started_at + total <= nearest[0]:
            return None
        return nearest

    def _begin_wait(self, phase: Phase, limit: _ReadLimit | None) -> Alarm:
        alarm = self._alarm
        if self.cancel_reason is not None or (alarm is not None and alarm.is_over):
            raise self._interruption(phase, None)
        assert alarm is not None
        alarm.begin(None if limit is None else limit[0])
        return alarm

    async def _leave_wait(
        self, alarm: Alarm, error: BaseException, phase: Phase, limit: _ReadLimit | None
    ) -> None:
        """Close the connection; raises what stands for `error`, if something else does."""
        was_interrupted = alarm.end()
        call = self._call
        if call is not None:  # else another task has ended it
            if isinstance(error, GeneratorExit):
                with contextlib.suppress(RuntimeError):  # the loop may have gone, and all with it
                    call.abort()
                return
            call.abort()
            await call.close_connection()
        if isinstance(error, asyncio.CancelledError):
            # a socket that a transport aborted is closed by the loop's next turn
            await asyncio.sleep(0)
        if was_interrupted or (self.cancel_reason is not None and isinstance(error, ClientError)):
            raise self._interruption(phase, limit) from None

    def _interruption(self, phase: Phase, limit: _ReadLimit | None) -> ClientError:
        if self.cancel_reason is not None:
            return cancelled(self.cancel_reason)
        if limit is not None:
            return too_late(limit[1], limit[2])
        return too_late(self._narrowed(phase), self._timeout.total or 0.0)

    def _narrowed(self, phase: Phase) -> Phase:
        """What was being waited for when the whole call ran out of time."""
        if phase == "headers" and self._stopwatch.attempts[-1].connected_ns is None:
            return "connect"
        if phase == "total" and not self.first_token_came:
            return "first_token"
        return phase
