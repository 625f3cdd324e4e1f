"""`AdapterLibrary`: names, versions, loads and leases of the adapters, on the event loop.

It is the one owner of what a name stands for. Loads run on threads (`load_threads`) and come back
to the loop, where the name moves to the new version in one piece of code without an `await`: a
request sees the old version or the new one, and keeps what it has seen by its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from lorry_server.adapters.composer import ParsedRecipe
from lorry_server.adapters.counters import LibraryCounters
from lorry_server.adapters.failures import FailureMemory
from lorry_server.adapters.info import AdapterInfo, State, Tier
from lorry_server.adapters.lease import AdapterLease
from lorry_server.adapters.load_desk import LoadDesk
from lorry_server.adapters.load_threads import LoadThreads
from lorry_server.adapters.loader import AdapterLoader
from lorry_server.adapters.names import Name, NameTable, parse_reference
from lorry_server.adapters.settings import LibrarySettings
from lorry_server.adapters.shared_load import SharedLoad, sent_away
from lorry_server.adapters.shelf import AdapterEngine, Version, VersionShelf
from lorry_server.engine.client import EngineStats
from lorry_server.errors import (
    AdapterError,
    AdapterExistsError,
    AdapterLoadError,
    CapacityError,
    NotFoundError,
    RequestError,
)
from lorry_server.lora.names import check_adapter_name

COMPOSED = "composed"  # the source of a composition: it is made of others


class LibraryEngine(AdapterEngine, Protocol):
    def stats(self) -> EngineStats: ...


class AdapterLibrary:
    """Every method is called on the event loop, but for `preload`, which comes before it.

    `reserved` are names that no adapter may have: those of the base model. `clock` gives seconds
    and decides when a failed load may be tried again.
    """

    def __init__(
        self,
        loader: AdapterLoader,
        engine: LibraryEngine,
        *,
        settings: LibrarySettings | None = None,
        reserved: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = settings or LibrarySettings()
        self.counters = LibraryCounters()
        self.shelf = VersionShelf(engine, budget_bytes=settings.host_memory_bytes)
        self.num_leases = 0
        self._engine = engine
        self._settings = settings
        self._reserved = reserved
        self._loader = loader
        self._names = NameTable(
            self.shelf, kept_versions=settings.kept_versions, weights=settings.weights
        )
        self._desk = LoadDesk(
            loader,
            self.shelf,
            self._names,
            threads=LoadThreads(max_threads=settings.max_loads),
            failures=FailureMemory(settings.failure_memory_s, clock=clock),
            counters=self.counters,
            give_up_s=settings.give_up_s,
        )

    # -- leases

    async def acquire(self, text: str) -> AdapterLease:
        """Return a lease of what `text` names: an adapter, a version of one, or a composition.

        Returns without giving way to the loop if it is in memory (`is_held`). Else it is loaded,
        once for all who wait. Raises NotFoundError, AdapterLoadError, and CapacityError when it
        may be had later.
        """
        recipe = self._parse_recipe(text)
        if recipe is not None:
            return await self._acquire_composition(recipe, text)
        reference = parse_reference(text)
        entry, version = self._find_version(reference.name, reference.prefix)
        if version is not None and version.is_leaving:
            await self._wait_while_leaving(
                lambda: self._find_version(reference.name, reference.prefix)[1], text
            )
            entry, version = self._find_version(reference.name, reference.prefix)
        if version is not None and version.prepared is not None:
            return self._lease(version, entry, asked=text, tier=self._tier(version))
        if reference.prefix is None:
            load = self._desk.load_of_name(reference.name)
        else:
            assert entry is not None
            assert version is not None
            load = self._desk.load_of_version(entry, version)
        return await self._wait_for_lease(load, reference.name, asked=text)

    def is_held(self, text: str) -> bool:
        """Whether `acquire` returns at once. Raises NotFoundError as it does."""
        recipe = self._parse_recipe(text)
        if recipe is not None:
            held = self._held_composition(recipe)
            return held is not None and not held.is_leaving
        reference = parse_reference(text)
        _, version = self._find_version(reference.name, reference.prefix)
        return version is not None and version.prepared is not None and not version.is_leaving

    # -- life cycle

    async def load(
        self,
        name: str,
        source: str,
        *,
        replace: bool,
        pinned: bool = False,
        preload: bool = True,
    ) -> AdapterInfo:
        """Load `source` and let `name` stand for it, in one moment when it is ready.

        Until then, and if it fails, the name stands for what it stood for before. Without `preload`
        the first request loads it. Who waits may leave: the load goes on. Raises RequestError for
        a name that may not be, AdapterExistsError without `replace`, AdapterLoadError, and
        CapacityError.
        """
        self._check_new_name(name)
        if not replace:
            await self._wait_for_pending(name)
            if self._names.find(name) is not None:
                raise AdapterExistsError(name)
        if not preload:
            self._desk.declare(name, source, is_pinned=pinned)
            return self._info_of(name)
        load = self._desk.load_asked(name, source, is_pinned=pinned)
        return await load.wait(
            lambda version: self._info_of(name),
            give_back=lambda info: None,
            limit_s=self._settings.load_timeout_s,
        )

    def preload(self, name: str, source: str) -> None:
        """Load and pin `source` now, on the calling thread, before there is a loop.

        Raises AdapterError.
        """
        try:
            self._check_new_name(name)
            loaded = self._loader.load(
                source, cancelled=lambda: False, find_prepared=self.shelf.find_prepared
            )
            self._desk.take_preloaded(name, loaded, is_pinned=True)
        except (RequestError, CapacityError) as exc:
            raise AdapterError(str(exc)) from exc

    def unload(self, name: str) -> None:
        """Let go of `name` at once; its memory when the last request on it has ended.

        Raises NotFoundError.
        """
        if self._names.find(name) is None:
            raise NotFoundError(f"no adapter {name!r} is loaded", param="name")
        self._desk.withdraw(name, f"adapter {name!r} was unloaded while it was being loaded")
        if self._names.find(name) is not None:
            self._names.remove(name)
        self._desk.serve_parked()

    def close(self) -> None:
        """Begin no load any more, and let nobody wait for one: the server is shutting down."""
        self._desk.close()

    # -- looking

    def list(self) -> tuple[AdapterInfo, ...]:
        """Every name, in the order in which they came."""
        return tuple(self._info(entry, entry.current) for entry in self._names)

    def find(self, text: str) -> AdapterInfo | None:
        """Return what is known of a name, or of a version of one; None for an unknown one."""
        try:
            reference = parse_reference(text)
            entry, version = self._find_version(reference.name, reference.prefix)
        except NotFoundError:
            return None
        return None if entry is None else self._info(entry, version)

    @property
    def num_ready(self) -> int:
        """Names whose version is in memory."""
        return sum(
            entry.current is not None and entry.current.prepared is not None
            for entry in self._names
        )

    def names_of(self, digest: str) -> tuple[str, ...]:
        """Names that stand for a version now; for a composition or an old version none."""
        return tuple(
            entry.name
            for entry in self._names
            if entry.current is not None and entry.current.digest == digest
        )

    def awaited_names(self) -> tuple[str, ...]:
        """What requests wait for to be loaded."""
        return self._desk.awaited_names()

    def check_integrity(self) -> None:
        """Assert that names, versions and leases agree with each other."""
        self.shelf.check_integrity()
        versions = list(self.shelf)
        assert sum(v.num_leases for v in versions) == self.num_leases
        for version in versions:
            named = [entry for entry in self._names if version in entry.versions]
            assert version.num_names == len(named)
            pinned = [e for e in named if e.is_pinned and e.current is version]
            assert version.num_pins == len(pinned)
        assert all(entry.num_leases >= 0 for entry in self._names)

    # -- private

    def _parse_recipe(self, text: str) -> ParsedRecipe | None:
        composer = self._loader.composer
        if composer is None:
            return None
        try:
            return composer.parse(text)
        except ValueError as exc:
            raise NotFoundError(str(exc)) from exc

    def _find_version(self, name: str, prefix: str | None) -> tuple[Name | None, Version | None]:
        entry = self._names.find(name)
        if prefix is None:
            return entry, None if entry is None else entry.current
        if entry is None:
            raise NotFoundError(f"no adapter {name!r} has been loaded, so it has no versions")
        return entry, self._names.resolve(entry, prefix)

    def _held_composition(self, recipe: ParsedRecipe) -> Version | None:
        """The composition of what the parts' names stand for now; the parts may be on disk."""
        digests = []
        for adapter in recipe.adapters:
            reference = parse_reference(adapter)
            _, part = self._find_version(reference.name, reference.prefix)
            if part is None:
                return None
            digests.append(part.digest)
        version = self.shelf.find(recipe.digest(digests))
        return None if version is None or version.prepared is None else version

    async def _acquire_composition(self, recipe: ParsedRecipe, text: str) -> AdapterLease:
        held = self._held_composition(recipe)
        if held is not None and held.is_leaving:
            await self._wait_while_leaving(lambda: self._held_composition(recipe), text)
            held = self._held_composition(recipe)
        if held is not None:
            return self._lease(held, None, asked=text, tier=self._tier(held))
        started_s = time.perf_counter()
        parts = []
        for adapter in recipe.adapters:
            part = await self.acquire(adapter)
            # Only what it is and where it is from is needed; held, it could be in its own way.
            part.release()
            parts.append(part)
        digest = recipe.digest([part.digest for part in parts])
        await self._wait_while_leaving(lambda: self.shelf.find(digest), text)
        version = self.shelf.find(digest)
        if version is not None and version.prepared is not None:
            lease = self._lease(version, None, asked=text, tier=self._tier(version))
        else:
            load = self._desk.load_of_recipe(recipe, digest, parts, text=text)
            lease = await self._wait_for_lease(load, None, asked=text)
        if any(part.waited_ms is not None for part in parts) or lease.waited_ms is not None:
            lease.waited_ms = (time.perf_counter() - started_s) * 1000
        return lease

    async def _wait_while_leaving(self, find: Callable[[], Version | None], asked: str) -> None:
        """Return when the version that a request wants does not have to make room any more."""
        limit_s = self._settings.load_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while (version := find()) is not None and version.is_leaving:
                    await self._desk.turn()
        except TimeoutError as exc:
            raise sent_away(asked, limit_s) from exc

    async def _wait_for_lease(
        self, load: SharedLoad, name: str | None, *, asked: str
    ) -> AdapterLease:
        started_s = time.perf_counter()

        def take(version: Version) -> AdapterLease:
            entry = None if name is None else self._names.find(name)
            return self._lease(version, entry, asked=asked, tier="disk")

        lease = await load.wait(
            take, give_back=AdapterLease.release, limit_s=self._settings.load_timeout_s
        )
        lease.waited_ms = (time.perf_counter() - started_s) * 1000
        return lease

    async def _wait_for_pending(self, name: str) -> None:
        """Return when it is certain whether a name that is being loaded will exist."""
        load = self._desk.pending(name)
        entry = self._names.find(name)
        if load is None or (entry is not None and entry.current is not None):
            return
        with contextlib.suppress(AdapterLoadError, NotFoundError):
            await load.wait(
                lambda version: None,
                give_back=lambda nothing: None,
                limit_s=self._settings.load_timeout_s,
            )

    def _lease(
        self, version: Version, entry: Name | None, *, asked: str, tier: Tier
    ) -> AdapterLease:
        self.num_leases += 1
        version.num_leases += 1
        if entry is not None:
            entry.num_leases += 1
        self.shelf.touch(version)
        self.counters.hit(tier)
        return AdapterLease(
            name=None if entry is None else entry.name,
            asked=asked,
            info=self._composition_info(version, asked)
            if entry is None
            else self._info(entry, version),
            facts=version.facts,
            tier=tier,
            on_release=partial(self._end_lease, version, entry),
        )

    def _end_lease(self, version: Version, entry: Name | None) -> None:
        self.num_leases -= 1
        version.num_leases -= 1
        if entry is not None:
            entry.num_leases -= 1
        self.shelf.settle(version)
        if not version.num_leases:
            self._desk.serve_parked()

    def _check_new_name(self, name: str) -> None:
        try:
            check_adapter_name(name)
        except ValueError as exc:
            raise RequestError(str(exc), param="name", code="invalid_value") from exc
        if name in self._reserved:
            raise RequestError(
                f"an adapter may not have the base model's name, {name!r}",
                param="name",
                code="invalid_value",
            )

    def _info_of(self, name: str) -> AdapterInfo:
        entry = self._names.find(name)
        assert entry is not None
        return self._info(entry, entry.current)

    def _info(self, entry: Name, version: Version | None) -> AdapterInfo:
        return AdapterInfo(
            name=entry.name,
            source=entry.source if version is None else version.source or entry.source,
            state=self._state(entry, version),
            tier=None if version is None else self._tier(version),
            facts=None if version is None else version.facts,
            times=None if version is None else version.times,
            is_pinned=entry.is_pinned,
            requests_in_flight=entry.num_leases,
            versions=tuple(v.digest for v in entry.versions),
            error=entry.error,
        )

    def _composition_info(self, version: Version, asked: str) -> AdapterInfo:
        return AdapterInfo(
            name=asked,
            source=COMPOSED,
            state="ready",
            tier=self._tier(version),
            facts=version.facts,
            times=version.times,
            requests_in_flight=version.num_leases,
            versions=(version.digest,),
        )

    def _state(self, entry: Name, version: Version | None) -> State:
        if version is not None and version.prepared is not None:
            return "ready"
        if self._desk.pending(entry.name) is not None:
            return "loading"
        if entry.error is not None:
            return "failed"
        return "known"

    def _tier(self, version: Version) -> Tier:
        if version.prepared is None:
            return "disk"
        return "device" if version.digest in self._engine.stats().resident_adapters else "host"
