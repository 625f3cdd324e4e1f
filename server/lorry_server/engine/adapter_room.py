"""`AdapterRoom`: the adapters that running sequences hold on the device, since when, and who is out.

It counts what the scheduler took from `Residency` and remembers what that refused, so that a step
does not ask again and again for room that cannot have come free.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lorry_server.engine.sequence import Flow
from lorry_server.lora.residency import Residency


@dataclass(slots=True)
class _Tenancy:
    since: int  # tokens that had been served when its first sequence got in
    num_sequences: int


class AdapterRoom:
    """Room for adapters, from the side of the sequences. The base model needs none.

    An adapter is held while a sequence that runs uses it. It was refused where there was no room
    beside the adapters that are held; that can change only when one of them is held no longer.
    """

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._tenancies: dict[str, _Tenancy] = {}
        self._refused: set[Flow] = set()

    @property
    def held(self) -> Collection[str]:
        """The adapters that running sequences use, in the order in which they got in."""
        return self._tenancies.keys()

    @property
    def refused(self) -> Collection[Flow]:
        """The adapters that do not fit beside those that are held."""
        return self._refused

    def enter(self, flow: Flow, now: int) -> bool:
        """Hold room for a sequence that begins to run; False where there is none."""
        if flow is None:
            return True
        if not self._residency.acquire(flow):
            assert self._tenancies, "an adapter does not fit, and nothing is in its way"
            self._refused.add(flow)
            return False
        tenancy = self._tenancies.get(flow)
        if tenancy is None:
            self._tenancies[flow] = _Tenancy(now, 1)
        else:
            tenancy.num_sequences += 1
        return True

    def is_open_to(self, flow: Flow) -> bool:
        """Whether a sequence of `flow` finds room for certain: its adapter is held, or it has none."""
        return flow is None or flow in self._tenancies

    def leave(self, flow: Flow) -> None:
        """Give up the room of a sequence that runs no longer."""
        if flow is None:
            return
        self._residency.release(flow)
        tenancy = self._tenancies[flow]
        tenancy.num_sequences -= 1
        if tenancy.num_sequences == 0:
            del self._tenancies[flow]
            self._refused.clear()

    def held_for(self, digest: str, now: int) -> int:
        """How many tokens were served since an adapter that is held got in."""
        return now - self._tenancies[digest].since

    def check_integrity(self, running: Collection[Flow]) -> None:
        """Assert that what is held is what the sequences that run (by flow) use."""
        counts: dict[str, int] = {}
        for flow in running:
            if flow is not None:
                counts[flow] = counts.get(flow, 0) + 1
        assert {d: t.num_sequences for d, t in self._tenancies.items()} == counts
        assert not self._refused & self._tenancies.keys(), "an adapter is held and refused"
