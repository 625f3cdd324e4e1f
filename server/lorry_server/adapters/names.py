"""`NameTable`: which version each name stands for, and which it stood for before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lorry_server.adapters.shelf import Version, VersionShelf
from lorry_server.errors import NotFoundError
from lorry_server.lora.names import check_adapter_name

KEPT_VERSIONS = 2  # of each name, the current one among them
MAX_FOUND_NAMES = 10_000
MAX_SHOWN_CHARS = 64

_PREFIX = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """`sql`, or `sql@3f2a` with the beginning of a digest."""

    name: str
    prefix: str | None


def parse_reference(text: str) -> Reference:
    """Raises NotFoundError for what cannot be a name: nobody can have loaded it."""
    name, at, prefix = text.partition("@")
    try:
        check_adapter_name(name)
    except ValueError as exc:
        raise NotFoundError(str(exc)) from exc
    if at and _PREFIX.fullmatch(prefix) is None:
        raise NotFoundError(
            f"{prefix[:MAX_SHOWN_CHARS]!r} is not the beginning of a version: 4 to 64 characters "
            "of 0-9 and a-f"
        )
    return Reference(name, prefix if at else None)


@dataclass(slots=True, eq=False)
class Name:
    """One entry. `versions` has the current version first, and is empty before the first load.

    `was_found` tells a name that a request brought in from one that somebody has loaded.
    `is_declared` that it was named without being loaded. `last_load` is the number of the load that
    the entry owes its source to.
    """

    name: str
    source: str
    was_found: bool = False
    is_declared: bool = False
    is_pinned: bool = False
    versions: tuple[Version, ...] = ()
    last_load: int = 0
    num_leases: int = 0
    error: str | None = None

    @property
    def current(self) -> Version | None:
        return self.versions[0] if self.versions else None


class NameTable:
    """The entries in the order in which they came; it keeps the counts of the shelf's versions."""

    def __init__(
        self,
        shelf: VersionShelf,
        *,
        kept_versions: int = KEPT_VERSIONS,
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._shelf = shelf
        self._weights = weights
        self._kept_versions = kept_versions
        self._entries: dict[str, Name] = {}

    def __iter__(self) -> Iterator[Name]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str) -> Name | None:
        return self._entries.get(name)

    def add(self, entry: Name) -> Name:
        assert entry.name not in self._entries
        if entry.was_found and len(self._entries) >= MAX_FOUND_NAMES:
            self._remove_oldest_found()
        self._entries[entry.name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Let go of a name; what nobody else names or uses is forgotten."""
        entry = self._entries.pop(name)
        self._set(entry, (), is_pinned=False)

    def move(self, entry: Name, version: Version, *, is_pinned: bool) -> None:
        """Let `entry` stand for `version`, and remember what it stood for."""
        earlier = [v for v in entry.versions if v is not version]
        self._set(entry, (version, *earlier)[: self._kept_versions], is_pinned=is_pinned)
        if entry.name in self._weights:
            self._shelf.weigh(version, self._weights[entry.name])

    def clear(self, entry: Name, *, is_pinned: bool) -> None:
        """Let `entry` stand for nothing until it is loaded."""
        self._set(entry, (), is_pinned=is_pinned)

    def resolve(self, entry: Name, prefix: str) -> Version:
        """Return the version of `entry` whose digest begins with `prefix`; raise NotFoundError."""
        found = [v for v in entry.versions if v.digest.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if found:
            raise NotFoundError(f"{prefix!r} begins several versions of {entry.name!r}; give more")
        known = ", ".join(v.digest[:8] for v in entry.versions) or "none"
        raise NotFoundError(
            f"{entry.name!r} has no version that begins with {prefix!r}. Known: {known}"
        )

    def _set(self, entry: Name, versions: tuple[Version, ...], *, is_pinned: bool) -> None:
        before = entry.versions
        self._count(entry, -1)
        entry.versions, entry.is_pinned = versions, is_pinned
        self._count(entry, 1)
        for version in before:
            self._shelf.settle(version)

    def _count(self, entry: Name, step: int) -> None:
        for version in entry.versions:
            version.num_names += step
        if entry.is_pinned and entry.current is not None:
            entry.current.num_pins += step

    def _remove_oldest_found(self) -> None:
        """A name that a request brought in can be found again by the next one."""
        for entry in self._entries.values():
            if entry.was_found and not entry.num_leases:
                self.remove(entry.name)
                return
