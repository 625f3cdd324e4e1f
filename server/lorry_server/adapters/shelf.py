"""`VersionShelf`: the versions that are known, and in host memory as many as its budget holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from lorry_server.adapters.info import AdapterFacts, LoadTimes
from lorry_server.adapters.loader import LoadedAdapter
from lorry_server.errors import AdapterCapacityError
from lorry_server.lora.prepared import PreparedAdapter

RETRY_AFTER_S = 1.0


class AdapterEngine(Protocol):
    """What the shelf tells an engine; both return at once."""

    def offer_adapter(self, prepared: PreparedAdapter) -> None:
        """From now on requests may name its digest."""
        ...

    def withdraw_adapter(self, digest: str) -> None:
        """No request that comes after this names the digest."""
        ...

    def set_adapter_weight(self, digest: str | None, weight: float) -> None:
        """Give an adapter a share other than 1."""
        ...


@dataclass(slots=True, eq=False)
class Version:
    """One content. `prepared` is None while it is not in host memory, only at its `source`."""

    facts: AdapterFacts
    source: str | None
    times: LoadTimes
    prepared: PreparedAdapter | None = field(default=None)
    num_leases: int = 0  # requests that run on it
    num_names: int = 0  # names that stand for it, or did and remember it
    num_pins: int = 0  # pinned names that stand for it
    is_leaving: bool = False  # to make room; no request begins on it any more
    weight: float = 1.0  # its share of the engine's time where others wait too

    @property
    def digest(self) -> str:
        return self.facts.digest


class VersionShelf:
    """What is in host memory has been offered to the engine, and nothing else has.

    When room is needed the version goes that was used longest ago, of those that no request uses
    and no pinned name stands for. A version that is neither named nor used nor in host memory is
    forgotten.
    """

    def __init__(self, engine: AdapterEngine, *, budget_bytes: int | None) -> None:
        self.budget_bytes = budget_bytes
        self.num_bytes = 0  # in host memory
        self.num_evictions = 0
        self._engine = engine
        self._versions: dict[str, Version] = {}
        self._held: OrderedDict[str, Version] = OrderedDict()  # least recently used first

    def __iter__(self) -> Iterator[Version]:
        return iter(self._versions.values())

    def find(self, digest: str) -> Version | None:
        return self._versions.get(digest)

    def find_prepared(self, digest: str) -> PreparedAdapter | None:
        """Return what is in host memory of a digest. May be called from any thread."""
        version = self._held.get(digest)
        return None if version is None else version.prepared

    def put(self, loaded: LoadedAdapter) -> Version:
        """Take a loaded adapter into host memory, in place of others if need be.

        It may go at once if nobody leases it. Raises AdapterCapacityError when what is in use leaves no
        room.
        """
        digest = loaded.facts.digest
        version = self._versions.get(digest)
        if version is None:
            version = Version(loaded.facts, loaded.source, loaded.times)
        version.facts, version.times = loaded.facts, loaded.times
        version.source = loaded.source or version.source
        if version.prepared is None:
            self._make_room(loaded.prepared.num_bytes)
            version.prepared = loaded.prepared
            self._versions[digest] = version
            self._held[digest] = version
            self.num_bytes += loaded.prepared.num_bytes
            self._engine.offer_adapter(loaded.prepared)
        self.touch(version)
        return version

    def touch(self, version: Version) -> None:
        """Note that a version is used now."""
        if version.prepared is not None:
            self._held.move_to_end(version.digest)

    def make_leave(self, num_bytes: int) -> bool:
        """Choose versions that are in use and shall go when their requests have ended.

        Those with the fewest requests, as many as it takes to make room for `num_bytes`. Returns
        False where pinned ones leave too little room for that, whoever goes.
        """
        assert self.budget_bytes is not None
        self.let_all_stay()
        excess = self.num_bytes + num_bytes - self.budget_bytes
        chosen = []
        for version in sorted(self._held.values(), key=lambda version: version.num_leases):
            if excess <= 0:
                break
            if not version.num_pins:
                chosen.append(version)
                excess -= version.facts.num_bytes
        if excess > 0:
            return False
        for version in chosen:
            version.is_leaving = True
        return True

    def let_all_stay(self) -> None:
        """Nobody waits for room any more."""
        for version in self._versions.values():
            version.is_leaving = False

    def weigh(self, version: Version, weight: float) -> None:
        """Give a version `weight` times the share of others."""
        if weight != version.weight:
            version.weight = weight
            self._engine.set_adapter_weight(version.digest, weight)

    def settle(self, version: Version) -> None:
        """Forget `version` if it has no name and no use any more.

        A composition never had a name: it stays until its room is needed.
        """
        if version.num_leases or version.num_names or version.source is None:
            return
        self._drop(version)

    def check_integrity(self) -> None:
        """Assert that bytes and counts agree with each other."""
        held = [v for v in self._versions.values() if v.prepared is not None]
        assert {v.digest for v in held} == set(self._held)
        assert self.num_bytes == sum(v.prepared.num_bytes for v in held if v.prepared)
        for version in self._versions.values():
            assert version.num_leases >= 0
            assert version.num_names >= version.num_pins >= 0
            assert version.prepared is not None or version.num_names
            assert not version.num_leases or version.prepared is not None

    def _make_room(self, num_bytes: int) -> None:
        if self.budget_bytes is None:
            return
        excess = self.num_bytes + num_bytes - self.budget_bytes
        victims = []
        for version in self._held.values():
            if excess <= 0:
                break
            if not version.num_leases and not version.num_pins:
                victims.append(version)
                excess -= version.facts.num_bytes
        if excess > 0:
            raise AdapterCapacityError(
                f"adapters that are in use or pinned fill the {self.budget_bytes} bytes of "
                f"--adapter-host-memory; this one needs {num_bytes}",
                retry_after_s=RETRY_AFTER_S,
            )
        for version in victims:
            self.num_evictions += 1
            self._drop(version)

    def _drop(self, version: Version) -> None:
        """Take a version that nobody leases out of host memory."""
        assert version.num_leases == 0
        if version.prepared is not None:
            self.num_bytes -= version.prepared.num_bytes
            version.prepared = None
            version.is_leaving = False
            del self._held[version.digest]
            self._engine.withdraw_adapter(version.digest)
        if version.num_names == 0:
            self.weigh(version, 1.0)
            self._versions.pop(version.digest, None)
