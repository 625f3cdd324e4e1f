"""Several limiters as one: a call begins when it has a permit of each."""

from __future__ import annotations

from collections.abc import Sequence

from lorry.errors import ClientError, StreamCancelled
from lorry.limits.base import Limiter, Permit
from lorry.timing import Timing

_NEVER_BEGAN = Timing(created_ns=0, intended_ns=0)


class SeveralLimits:
    """Asks its limiters in their order, and holds what the first gave while it waits for the next.

    So a `RateLimit` belongs behind a `Limit`: the rate is then kept at the moment of sending.
    """

    def __init__(self, limits: Sequence[Limiter]) -> None:
        self.limits = tuple(limits)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.limits))}]"

    @property
    def num_queued(self) -> int:
        return sum(limit.num_queued for limit in self.limits)

    @property
    def num_in_flight(self) -> int:
        return self.limits[-1].num_in_flight

    async def acquire(self, *, adapter: str | None, num_tokens: int) -> SeveralPermits:
        permits = SeveralPermits()
        try:
            for limit in self.limits:
                permits.add(await limit.acquire(adapter=adapter, num_tokens=num_tokens))
        except BaseException:
            permits.release(outcome=StreamCancelled("it never began"), timing=_NEVER_BEGAN)
            raise
        return permits


class SeveralPermits:
    """The permits of one call, given back together."""

    __slots__ = ("_permits",)

    def __init__(self) -> None:
        self._permits: list[Permit] = []

    def add(self, permit: Permit) -> None:
        self._permits.append(permit)

    def release(self, *, outcome: ClientError | None, timing: Timing) -> None:
        while self._permits:
            self._permits.pop().release(outcome=outcome, timing=timing)
