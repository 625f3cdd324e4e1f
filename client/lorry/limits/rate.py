"""`RateLimit`: so many calls, or tokens, in a second."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from lorry.errors import ClientError
from lorry.per_loop import PerLoop
from lorry.timing import Timing


class TokenBucket:
    """Holds up to `size`, gains `per_s` in a second, and is empty of nothing but what was taken.

    What costs more than the whole bucket goes when it is full, and leaves a debt. Times are in
    seconds, on whatever clock.
    """

    def __init__(self, per_s: float, size: float) -> None:
        self._per_s = per_s
        self._size = size
        self._level = size
        self._filled_at = -math.inf

    def delay_s(self, cost: float, now: float) -> float:
        """How long until `cost` may be taken; 0.0 if now."""
        self._level = min(self._size, self._level + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        missing = min(cost, self._size) - self._level
        # what rounding leaves is not waited for
        return missing / self._per_s if missing > 1e-9 * self._size else 0.0

    def take(self, cost: float) -> None:
        self._level -= cost

    def put_back(self, cost: float) -> None:
        self._level += cost


class RateLimit:
    """At most `requests_per_s` calls begin in a second, and at most `tokens_per_s` tokens with them.

    Either may be left out. The tokens of a call are an estimate of its prompt and what it may
    generate at most, as servers count them that limit tokens themselves. What was not used in up to
    `burst_s` seconds may go at once. Calls go in the order in which they asked; retries count too.
    The rates hold over several event loops in turn. `clock` gives monotonic seconds. Raises
    ValueError for a rate that is not positive, and if none is given.
    """

    def __init__(
        self,
        *,
        requests_per_s: float | None = None,
        tokens_per_s: float | None = None,
        burst_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if requests_per_s is None and tokens_per_s is None:
            raise ValueError("a RateLimit needs requests_per_s or tokens_per_s")
        self._requests_per_s = requests_per_s
        self._tokens_per_s = tokens_per_s
        self._requests = _bucket("requests_per_s", requests_per_s, burst_s)
        self._tokens = _bucket("tokens_per_s", tokens_per_s, burst_s)
        self._clock = clock
        self._lines = PerLoop(lambda loop: _Line(loop, self))

    def __repr__(self) -> str:
        rates = {"requests_per_s": self._requests_per_s, "tokens_per_s": self._tokens_per_s}
        given = ", ".join(f"{name}={rate:g}" for name, rate in rates.items() if rate is not None)
        return f"RateLimit({given})"

    @property
    def num_queued(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def num_in_flight(self) -> int:
        return sum(line.num_in_flight for line in self._lines.values())

    async def acquire(self, *, adapter: str | None, num_tokens: int) -> Departure:
        line = self._lines.get()
        await line.join(num_tokens)
        line.num_in_flight += 1
        return Departure(line)

    def delay_s(self, num_tokens: int) -> float:
        """How long until a call of so many tokens may begin; 0.0 if now."""
        now = self._clock()
        delay = 0.0
        if self._requests is not None:
            delay = self._requests.delay_s(1.0, now)
        if self._tokens is not None:
            delay = max(delay, self._tokens.delay_s(num_tokens, now))
        return delay

    def take(self, num_tokens: int) -> None:
        if self._requests is not None:
            self._requests.take(1.0)
        if self._tokens is not None:
            self._tokens.take(num_tokens)

    def put_back(self, num_tokens: int) -> None:
        """What was taken for a call that did not begin after all."""
        if self._requests is not None:
            self._requests.put_back(1.0)
        if self._tokens is not None:
            self._tokens.put_back(num_tokens)


class _Line:
    """Those of one event loop who wait, first come first served, and one timer for the first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: RateLimit) -> None:
        self.num_in_flight = 0
        self.waiting: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self._loop = loop
        self._rate = rate
        self._timer: asyncio.TimerHandle | None = None

    async def join(self, num_tokens: int) -> None:
        if not self.waiting and self._rate.delay_s(num_tokens) == 0.0:
            self._rate.take(num_tokens)
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self.waiting[turn] = num_tokens
        if self._timer is None:
            self._serve()
        try:
            await turn
        except BaseException:
            if turn in self.waiting:
                is_first = next(iter(self.waiting)) is turn
                del self.waiting[turn]
            else:
                is_first = True
                self._rate.put_back(num_tokens)  # cancelled in the moment of its turn
            if is_first and not self._loop.is_closed():
                self._serve()
            raise

    def _serve(self) -> None:
        """Let those go who may, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.waiting:
            turn, num_tokens = next(iter(self.waiting.items()))
            delay_s = self._rate.delay_s(num_tokens)
            if delay_s > 0.0:
                self._timer = self._loop.call_later(delay_s, self._serve)
                return
            self._rate.take(num_tokens)
            del self.waiting[turn]
            if not turn.done():  # else it is being cancelled, and puts back what was taken
                turn.set_result(None)


class Departure:
    """A permit of `RateLimit`: a call that has begun and not ended."""

    __slots__ = ("_line",)

    def __init__(self, line: _Line) -> None:
        self._line: _Line | None = line

    def release(self, *, outcome: ClientError | None, timing: Timing) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.num_in_flight -= 1


def _bucket(name: str, per_s: float | None, burst_s: float) -> TokenBucket | None:
    if per_s is None:
        return None
    if not (math.isfinite(per_s) and per_s > 0):
        raise ValueError(f"{name} is {per_s}; it must be a positive number")
    if not (math.isfinite(burst_s) and burst_s > 0):
        raise ValueError(f"burst_s is {burst_s}; it must be a positive number of seconds")
    return TokenBucket(per_s, max(1.0, per_s * burst_s))
