"""`Residency`: which adapters are on the device, within a budget of bytes. No torch.

An adapter takes exactly its own bytes and one slot; nothing is padded to a largest rank. When room
is short, adapters that no running sequence uses leave, the least recently used first. S-LoRA
(arXiv 2311.03285) keeps adapters in host memory and brings in those of the running batch; so does
this, with the difference that what leaves is decided by bytes.

Nothing here depends on a clock or on the order of a set.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from lorry_server.lora.prepared import DeviceAdapters, PreparedAdapter

MAX_SLOTS = 1024


@dataclass(slots=True)
class ResidencyCounters:
    """Counts since the start; they only grow."""

    hits: int = 0  # acquired while resident
    attaches: int = 0
    evictions: int = 0  # detached to make room


@dataclass(slots=True)
class _Resident:
    prepared: PreparedAdapter
    slot: int
    pins: int = 0


class Residency:
    """Adapters that are known, those of them that are resident, and who holds them there.

    Owned by the engine's thread. A pin is a running sequence; what is pinned is never detached.
    `device` is told to attach and detach between steps.
    """

    def __init__(
        self, device: DeviceAdapters, *, budget_bytes: int, max_slots: int = MAX_SLOTS
    ) -> None:
        self.budget_bytes = budget_bytes
        self.resident_bytes = 0
        self.num_pins = 0
        self.counters = ResidencyCounters()
        self.resident_digests: tuple[str, ...] = ()  # replaced whole, so anyone may read it
        self._device = device
        self._max_slots = max_slots
        self._known: dict[str, PreparedAdapter] = {}
        self._residents: dict[str, _Resident] = {}  # the least recently used first
        self._pinned_bytes = 0
        self._num_pinned = 0
        self._free_slots = list(range(max_slots))  # a heap: low slots are used again first

    @property
    def num_resident(self) -> int:
        return len(self._residents)

    def is_known(self, digest: str) -> bool:
        return digest in self._known

    def is_resident(self, digest: str) -> bool:
        return digest in self._residents

    def slot(self, digest: str) -> int:
        """Where a resident adapter is; KeyError for one that is not."""
        return self._residents[digest].slot

    def offer(self, prepared: PreparedAdapter) -> None:
        """Know an adapter from now on; it must fit the budget alone.

        What is known already, or still resident, stays as it is: the digest says that the content
        is the same.
        """
        assert prepared.num_bytes <= self.budget_bytes, "an adapter that can never be resident"
        resident = self._residents.get(prepared.digest)
        self._known.setdefault(prepared.digest, resident.prepared if resident else prepared)

    def withdraw(self, digest: str) -> None:
        """Forget an adapter; it is detached now, or with its last pin. Harmless if unknown."""
        if self._known.pop(digest, None) is None:
            return
        resident = self._residents.get(digest)
        if resident is not None and resident.pins == 0:
            self._detach(digest)

    def acquire(self, digest: str) -> bool:
        """Make an adapter resident and pin it; False, and nothing changed, if there is no room.

        Raises KeyError for an adapter that is not known.
        """
        prepared = self._known[digest]
        resident = self._residents.get(digest)
        if resident is not None:
            self.counters.hits += 1
        elif self._make_room(prepared.num_bytes):
            resident = self._attach(prepared)
        else:
            return False
        if resident.pins == 0:
            self._pinned_bytes += prepared.num_bytes
            self._num_pinned += 1
        resident.pins += 1
        self.num_pins += 1
        return True

    def release(self, digest: str) -> None:
        """Take one pin away."""
        resident = self._residents[digest]
        assert resident.pins > 0
        resident.pins -= 1
        self.num_pins -= 1
        if resident.pins > 0:
            return
        self._pinned_bytes -= resident.prepared.num_bytes
        self._num_pinned -= 1
        if digest not in self._known:
            self._detach(digest)
        else:
            self._residents[digest] = self._residents.pop(digest)  # now the most recently used

    def _make_room(self, num_bytes: int) -> bool:
        if self._pinned_bytes + num_bytes > self.budget_bytes:
            return False
        if self._num_pinned == self._max_slots:
            return False
        idle = [digest for digest, resident in self._residents.items() if resident.pins == 0]
        for digest in idle:
            if self._free_slots and self.resident_bytes + num_bytes <= self.budget_bytes:
                break
            self._detach(digest)
            self.counters.evictions += 1
        return True

    def _attach(self, prepared: PreparedAdapter) -> _Resident:
        resident = _Resident(prepared, heapq.heappop(self._free_slots))
        self._device.attach(resident.slot, prepared)
        self._residents[prepared.digest] = resident
        self.resident_bytes += prepared.num_bytes
        self.counters.attaches += 1
        self.resident_digests = tuple(self._residents)
        return resident

    def _detach(self, digest: str) -> None:
        resident = self._residents.pop(digest)
        self._device.detach(resident.slot)
        heapq.heappush(self._free_slots, resident.slot)
        self.resident_bytes -= resident.prepared.num_bytes
        self.resident_digests = tuple(self._residents)

    def check_integrity(self) -> None:
        """Assert the invariants that hold between any two calls."""
        residents = self._residents.values()
        assert self.resident_bytes == sum(r.prepared.num_bytes for r in residents)
        assert self.resident_bytes <= self.budget_bytes
        assert self.num_pins == sum(r.pins for r in residents)
        pinned = [r for r in residents if r.pins > 0]
        assert self._pinned_bytes == sum(r.prepared.num_bytes for r in pinned)
        assert self._num_pinned == len(pinned)
        slots = sorted([*self._free_slots, *(r.slot for r in residents)])
        assert slots == list(range(self._max_slots)), "a slot is lost or used twice"
        forgotten = [d for d, r in self._residents.items() if r.pins == 0 and d not in self._known]
        assert not forgotten, "an adapter that nobody knows or uses is still resident"
