"""When things happened in one call, on one monotonic clock, and what follows from it.

Every stamp is `time.perf_counter_ns()`. Stamps of tokens are taken when the read that brought their
bytes returned, before anything was parsed, so all tokens of one read share a stamp;
`tokens_per_event`, `num_buffered_tokens` and `loop_lag_max` say how far the stamps may be trusted.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from lorry.types.common import Timings


class AttemptTiming(msgspec.Struct, gc=False):
    """One try at sending a request; the transport fills in what it can observe.

    `reused_connection` is None when the transport cannot tell.
    """

    sent_ns: int
    connected_ns: int | None = None
    headers_ns: int | None = None
    reused_connection: bool | None = None

    def copy(self) -> AttemptTiming:
        return AttemptTiming(
            self.sent_ns, self.connected_ns, self.headers_ns, self.reused_connection
        )


class Timing(msgspec.Struct, frozen=True, gc=False):
    """The record of one call. Stamps are nanoseconds; derived times are seconds, None if unknown.

    `intended_ns` is when the request should have been sent (the creation, unless a schedule set
    it), `admitted_ns` when the call's turn came, at once where nothing limits calls. The first token
    is the first event that holds generated text or a token id: an event with only a role, an empty
    event and a keep-alive comment are not tokens. `num_buffered_tokens` are those that shared a
    read with an earlier one, so that their gap is zero whatever the server did. `loop_lag_max` is by
    how much, at worst, the event loop was late while the call was in flight: stamps may be that
    much too late. A loop that nothing disturbs is up to a millisecond late, as its timers are. `server`
    is the server's own account, where it gave one; `print(timing)` draws the two as one waterfall.
    """

    created_ns: int
    intended_ns: int
    attempts: tuple[AttemptTiming, ...] = ()
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    done_ns: int | None = None
    token_ns: array[int] | None = None
    num_tokens: int | None = None
    num_events: int = 0
    num_buffered_tokens: int = 0
    admitted_ns: int | None = None
    loop_lag_max: float | None = None
    server: Timings | None = None

    def __str__(self) -> str:
        """The waterfall of the call, a line for each part of it; see `lorry.waterfall`."""
        from lorry.waterfall import draw  # which needs this module

        return draw(self)

    def _repr_html_(self) -> str:
        from lorry.notebook import timing_html  # needed in notebooks only

        return timing_html(self)

    def to_chrome_trace(self) -> dict[str, Any]:
        """This call as Chrome trace events; `lorry.chrome_trace` takes many calls."""
        from lorry.trace_events import chrome_trace  # which needs this module

        return chrome_trace([self])

    @property
    def sent_ns(self) -> int | None:
        """The start of the attempt that was answered, or of the last one."""
        return self.attempts[-1].sent_ns if self.attempts else None

    @property
    def queue(self) -> float | None:
        """From creation to admission: time spent waiting in this client."""
        return _seconds(self.created_ns, self.admitted_ns)

    @property
    def connect(self) -> float | None:
        """From sending to a usable connection; next to nothing when one was reused."""
        return _seconds(self.sent_ns, self.attempts[-1].connected_ns if self.attempts else None)

    @property
    def ttfb(self) -> float | None:
        """From sending to the first byte of the body."""
        return _seconds(self.sent_ns, self.first_byte_ns)

    @property
    def ttft(self) -> float | None:
        """Time to first token, from sending the attempt that was answered."""
        return _seconds(self.sent_ns, self.first_token_ns)

    @property
    def ttft_from_intended(self) -> float | None:
        """Time to first token as a user felt it: with queueing, failed attempts and lateness."""
        return _seconds(self.intended_ns, self.first_token_ns)

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first, by the server's count when it gave one."""
        span = _seconds(self.first_token_ns, self.last_token_ns)
        if span is None or self.num_tokens is None or self.num_tokens < 2:
            return None
        return span / (self.num_tokens - 1)

    @property
    def itl(self) -> list[float]:
        """The gaps between tokens; empty when single stamps were not kept."""
        return [(after - before) / 1e9 for before, after in pairwise(self.token_ns or ())]

    @property
    def e2e(self) -> float | None:
        """From creation to the end of the answer."""
        return _seconds(self.created_ns, self.done_ns)

    @property
    def tokens_per_event(self) -> float | None:
        """Above 1, an event carries several tokens and gaps between tokens are partly zero."""
        if self.token_ns is None or self.num_events == 0:
            return None
        return len(self.token_ns) / self.num_events

    @property
    def reused_connection(self) -> bool | None:
        return self.attempts[-1].reused_connection if self.attempts else None


def _seconds(start_ns: int | None, end_ns: int | None) -> float | None:
    if start_ns is None or end_ns is None:
        return None
    return (end_ns - start_ns) / 1e9


class Stopwatch(msgspec.Struct, gc=False):
    """Collects the stamps of one call. The exchange owns it; others see `Timing` snapshots."""

    created_ns: int
    intended_ns: int
    admitted_ns: int | None = None
    attempts: list[AttemptTiming] = []
    first_byte_ns: int | None = None
    last_read_ns: int = 0
    done_ns: int | None = None
    num_events: int = 0
    num_buffered_tokens: int = 0
    loop_lag_max: float | None = None
    token_ns: array[int] | None = None  # made with the first token

    def start_attempt(self, sent_ns: int) -> AttemptTiming:
        attempt = AttemptTiming(sent_ns)
        self.attempts.append(attempt)
        return attempt

    def received(self, at_ns: int) -> None:
        """A read of the body returned with bytes."""
        self.last_read_ns = at_ns
        if self.first_byte_ns is None:
            self.first_byte_ns = at_ns

    def tokens_came(self, num_tokens: int) -> None:
        """One event of the last read brought `num_tokens` tokens."""
        at_ns, stamps = self.last_read_ns, self.token_ns
        if stamps is None:
            stamps = self.token_ns = array("q")
        if stamps and stamps[-1] == at_ns:
            self.num_buffered_tokens += num_tokens
        elif num_tokens > 1:
            self.num_buffered_tokens += num_tokens - 1
        self.num_events += 1
        if num_tokens == 1:
            stamps.append(at_ns)
        else:
            stamps.extend([at_ns] * num_tokens)

    def snapshot(self, *, num_tokens: int | None = None, server: Timings | None = None) -> Timing:
        """`num_tokens` is the server's count of the completion; without it, what was counted.

        `server` is the server's own account.
        """
        stamps = self.token_ns
        return Timing(
            created_ns=self.created_ns,
            intended_ns=self.intended_ns,
            attempts=tuple([attempt.copy() for attempt in self.attempts]),
            first_byte_ns=self.first_byte_ns,
            first_token_ns=stamps[0] if stamps else None,
            last_token_ns=stamps[-1] if stamps else None,
            done_ns=self.done_ns,
            token_ns=stamps[:] if stamps else None,
            num_tokens=num_tokens if num_tokens is not None else (len(stamps) if stamps else None),
            num_events=self.num_events,
            num_buffered_tokens=self.num_buffered_tokens,
            admitted_ns=self.admitted_ns,
            loop_lag_max=self.loop_lag_max,
            server=server,
        )
