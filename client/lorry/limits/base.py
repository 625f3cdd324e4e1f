"""What a limiter is: a call asks it for a permit, and gives the permit back when it has ended."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lorry.errors import ClientError
from lorry.timing import Timing


class Permit(Protocol):
    """The right of one call to be in flight."""

    def release(self, *, outcome: ClientError | None, timing: Timing) -> None:
        """Give it back; harmless when repeated.

        `outcome` is what the call failed with, StreamCancelled if it was cancelled, None if all
        went well. A limiter may learn from it, and from the timing.
        """
        ...


@runtime_checkable
class Limiter(Protocol):
    """Lets calls begin. One may serve several clients, and several event loops in turn."""

    @property
    def num_queued(self) -> int:
        """Calls that wait for a permit now."""
        ...

    @property
    def num_in_flight(self) -> int:
        """Permits that were given and not given back."""
        ...

    async def acquire(self, *, adapter: str | None, num_tokens: int) -> Permit:
        """Wait for a permit. `num_tokens` is an estimate of prompt and completion together.

        Calls for the same adapter get theirs in the order in which they asked. One that is
        cancelled while it waits leaves nothing behind.
        """
        ...
