"""`BatchTurns`: a limiter as one batch sees it, whose run is told when a call of its may begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorry.errors import ClientError
from lorry.limits.base import Limiter, Permit
from lorry.limits.several import SeveralLimits
from lorry.timing import Timing


class BatchTurns:
    """Asks `limiter` for the calls of one batch, and counts those of them that have a permit.

    `changed` is called when one is given and when one is given back, since it depends on them how
    far the run reads on.
    """

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.changed: Callable[[], None] = _nobody_waits
        self.num_admitted = 0
        self.max_admitted = 0

    def __repr__(self) -> str:
        return repr(self.limiter)

    @property
    def num_queued(self) -> int:
        return self.limiter.num_queued

    @property
    def num_in_flight(self) -> int:
        return self.limiter.num_in_flight

    async def acquire(self, *, adapter: str | None, num_tokens: int) -> BatchPermit:
        permit = await self.limiter.acquire(adapter=adapter, num_tokens=num_tokens)
        self.num_admitted += 1
        self.max_admitted = max(self.max_admitted, self.num_admitted)
        self.changed()
        return BatchPermit(permit, self)

    def before(self, others: Limiter | None) -> Sequence[Limiter]:
        """This and the client's own limits: a place of the batch is nobody else's to wait for.

        The limiter itself, where the client has it too, is asked once.
        """
        if others is None:
            return [self]
        own = others.limits if isinstance(others, SeveralLimits) else [others]
        return [self, *(limit for limit in own if limit is not self.limiter)]


class BatchPermit:
    """A permit of the limiter, which the batch is told the end of."""

    __slots__ = ("_permit", "_turns")

    def __init__(self, permit: Permit, turns: BatchTurns) -> None:
        self._permit = permit
        self._turns: BatchTurns | None = turns

    def release(self, *, outcome: ClientError | None, timing: Timing) -> None:
        turns, self._turns = self._turns, None
        if turns is not None:
            self._permit.release(outcome=outcome, timing=timing)
            turns.num_admitted -= 1
            turns.changed()


def _nobody_waits() -> None:
    """What is called before a run has begun."""
