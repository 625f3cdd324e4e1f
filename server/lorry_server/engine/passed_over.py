"""`PassedOver`: flows that others went past for want of room, and which of them is owed room now."""

from __future__ import annotations

from dataclasses import dataclass

from lorry_server.engine.sequence import Flow


@dataclass(slots=True)
class Claim:
    """`flow` gets the next room that there is; it has claimed it since `since`.

    `victim` is the adapter that takes on no sequences until the claim is met, so that its room
    comes free.
    """

    flow: Flow
    since: int
    victim: str | None = None


class PassedOver:
    """Whose turn came while blocks or room for its adapter was short, in the order in which it did.

    A flow may be passed over while `patience_tokens` are served to others; then it has a claim. One
    flow at a time has one, the others after it in their order, so each waits for a bounded time.
    """

    def __init__(self, *, patience_tokens: int) -> None:
        self._patience_tokens = patience_tokens
        self._since: dict[Flow, int] = {}  # when it was first passed over
        self._claim: Claim | None = None

    @property
    def flows(self) -> frozenset[Flow]:
        """The flows that were passed over, for the invariants."""
        return frozenset(self._since)

    def note(self, flow: Flow, now: int) -> None:
        """The turn of `flow` came and there was no room."""
        self._since.setdefault(flow, now)

    def forget(self, flow: Flow) -> None:
        """A sequence of `flow` has got its room, or none of it waits any more."""
        self._since.pop(flow, None)
        if self._claim is not None and self._claim.flow == flow:
            self._claim = None

    def claim(self, now: int) -> Claim | None:
        """Who is owed room now, if anybody is."""
        if self._claim is None and self._since:
            flow, since = next(iter(self._since.items()))
            if now - since >= self._patience_tokens:
                self._claim = Claim(flow, now)
        return self._claim
