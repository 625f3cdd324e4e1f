"""`LoadDesk`: which loads are under way, and what becomes of their results."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from lorry_server.adapters.composer import ParsedRecipe
from lorry_server.adapters.counters import LibraryCounters
from lorry_server.adapters.failures import FailureMemory
from lorry_server.adapters.lease import AdapterLease
from lorry_server.adapters.load_threads import LoadThreads
from lorry_server.adapters.loader import AdapterLoader, LoadedAdapter
from lorry_server.adapters.names import Name, NameTable
from lorry_server.adapters.shared_load import SharedLoad, no_room
from lorry_server.adapters.shelf import Version, VersionShelf
from lorry_server.adapters.source import AdapterSourceError
from lorry_server.errors import (
    AdapterCapacityError,
    AdapterError,
    AdapterLoadError,
    DrainingError,
    NotFoundError,
)

logger = structlog.get_logger(__name__)

DRAIN_RETRY_AFTER_S = 5.0
OWN_FAULT = "the server met an error of its own; its log has the details"


class LoadDesk:
    """Starts one load for all who want the same, and moves names when loads end.

    Everything but the loads themselves is on the event loop.
    """

    def __init__(
        self,
        loader: AdapterLoader,
        shelf: VersionShelf,
        names: NameTable,
        *,
        threads: LoadThreads,
        failures: FailureMemory,
        counters: LibraryCounters,
        give_up_s: float,
    ) -> None:
        self._loader = loader
        self._shelf = shelf
        self._names = names
        self._threads = threads
        self._failures = failures
        self._counters = counters
        self._give_up_s = give_up_s
        self._loads: dict[str, SharedLoad] = {}  # which whoever comes now waits for
        self._running: set[SharedLoad] = set()  # those, and older ones that were overtaken
        self._parked: deque[tuple[SharedLoad, LoadedAdapter]] = deque()  # loaded, without room yet
        self._turns: list[asyncio.Future[None]] = []  # of requests for versions that shall leave
        self._last_number = 0
        self._is_closed = False

    def pending(self, name: str) -> SharedLoad | None:
        """Return the load that requests for `name` would wait for."""
        return self._loads.get(name)

    def awaited_names(self) -> tuple[str, ...]:
        """Names of the loads that somebody waits for."""
        return tuple(load.name for load in self._running if load.num_waiters)

    def load_of_name(self, name: str) -> SharedLoad:
        """The load of a name from its source, or from where an allowed root has it.

        Raises AdapterLoadError or NotFoundError while a failure is remembered.
        """
        entry = self._names.find(name)
        source = entry.source if entry is not None else None

        def work(load: SharedLoad) -> LoadedAdapter:
            return self._loader.load(
                source if source is not None else self._loader.find(name),
                cancelled=lambda: load.is_cancelled,
                find_prepared=self._shelf.find_prepared,
            )

        return self._shared(name, name, work)

    def load_of_version(self, entry: Name, version: Version) -> SharedLoad:
        """The load of one version of a name, which fails if its source holds another now."""
        source = version.source
        assert source is not None  # a composition has no name

        def work(load: SharedLoad) -> LoadedAdapter:
            return self._loader.load(
                source,
                cancelled=lambda: load.is_cancelled,
                find_prepared=self._shelf.find_prepared,
                wanted_digest=version.digest,
            )

        return self._shared(f"@{version.digest}", f"{entry.name}@{version.digest[:8]}", work)

    def load_of_recipe(
        self, recipe: ParsedRecipe, digest: str, parts: Sequence[AdapterLease], *, text: str
    ) -> SharedLoad:
        """The making of a composition of `parts`, as they are at their sources."""
        sources = [(part.info.source, part.digest) for part in parts]

        def work(load: SharedLoad) -> LoadedAdapter:
            return self._loader.compose(
                recipe,
                sources,
                digest=digest,
                cancelled=lambda: load.is_cancelled,
                find_prepared=self._shelf.find_prepared,
            )

        return self._shared(f"={digest}", text, work)

    def load_asked(self, name: str, source: str, *, is_pinned: bool) -> SharedLoad:
        """Begin to load `source` as `name`; the name moves when that has succeeded."""

        def work(load: SharedLoad) -> LoadedAdapter:
            return self._loader.load(
                source,
                cancelled=lambda: load.is_cancelled,
                find_prepared=self._shelf.find_prepared,
            )

        load = SharedLoad(
            key=name, name=name, number=self._number(), is_asked=True, is_pinned=is_pinned
        )
        self._begin(load, work)
        self._failures.forget(name)
        if self._names.find(name) is None:
            self._names.add(Name(name, source))
        return load

    def declare(self, name: str, source: str, *, is_pinned: bool) -> None:
        """Let `name` stand for what is at `source`, to be loaded when it is first asked for."""
        self.withdraw(name, f"adapter {name!r} was given another source")
        entry = self._names.find(name) or self._names.add(Name(name, source))
        entry.source, entry.is_declared, entry.was_found = source, True, False
        entry.last_load, entry.error = self._number(), None
        self._names.clear(entry, is_pinned=is_pinned)

    def take_preloaded(self, name: str, loaded: LoadedAdapter, *, is_pinned: bool) -> None:
        """Put in what has been loaded before there was a loop. Raises AdapterCapacityError."""
        load = SharedLoad(
            key=name, name=name, number=self._number(), is_asked=True, is_pinned=is_pinned
        )
        self._take(load, loaded)
        self._counters.loaded(loaded.times)

    def withdraw(self, name: str, reason: str) -> None:
        """End the loads of `name`, whose results nobody wants any more."""
        self._failures.forget(name)
        for load in [load for load in self._running if load.key == name]:
            self._end(load)
            load.fail(partial(AdapterLoadError, reason))
        self.serve_parked()

    def close(self) -> None:
        """End every load and begin no other: the server is shutting down."""
        self._is_closed = True
        for load in list(self._running):
            self._end(load)
            load.fail(draining)

    # -- the life of a load

    def _shared(
        self, key: str, name: str, work: Callable[[SharedLoad], LoadedAdapter]
    ) -> SharedLoad:
        load = self._loads.get(key)
        if load is None:
            self._raise_remembered(key)
            load = SharedLoad(key=key, name=name, number=self._number())
            self._begin(load, work)
        return load

    def _begin(self, load: SharedLoad, work: Callable[[SharedLoad], LoadedAdapter]) -> None:
        if self._is_closed:
            raise draining()
        self._threads.start(partial(work, load), partial(self._finish, load))
        loop = asyncio.get_running_loop()
        load.timer = loop.call_later(self._give_up_s, self._give_up, load)
        self._loads[load.key] = load
        self._running.add(load)

    def _finish(
        self, load: SharedLoad, loaded: LoadedAdapter | None, error: Exception | None
    ) -> None:
        if load.is_done:  # given up or withdrawn meanwhile
            return
        if loaded is not None:
            load.waits_for_room = True
            self._parked.append((load, loaded))
            self.serve_parked()
            return
        assert error is not None
        self._end(load)
        self._fail(load, error)
        self.serve_parked()  # it may have been the first in line

    def serve_parked(self) -> None:
        """Put what has been loaded on the shelf, in order, as far as there is room.

        To be called when a version is not in use any more. Where the first in line finds no room,
        those that use what it needs finish, and nobody begins on that until it has gone: else
        steady traffic would keep newcomers out for ever.
        """
        while self._parked:
            load, loaded = self._parked[0]
            if not load.is_done:  # else nobody wants it any more
                try:
                    version = self._take(load, loaded)
                except AdapterCapacityError as exc:
                    is_wanted = load.is_asked or load.num_waiters > 0
                    if is_wanted and self._shelf.make_leave(loaded.prepared.num_bytes):
                        return
                    self._parked.popleft()
                    self._end(load)
                    self._fail(load, exc)
                    continue
                self._parked.popleft()
                self._end(load)
                self._counters.loaded(loaded.times)
                logger.info("adapter loaded", adapter=load.name, digest=version.digest)
                load.succeed(version)
                self._shelf.settle(version)
            else:
                self._parked.popleft()
            self._call_turns()
        self._shelf.let_all_stay()
        self._call_turns()

    async def turn(self) -> None:
        """Return when the line of those who wait for room has moved."""
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        await turn

    def _call_turns(self) -> None:
        turns, self._turns = self._turns, []
        for turn in turns:
            if not turn.done():
                turn.set_result(None)

    def _end(self, load: SharedLoad) -> None:
        load.is_cancelled = True  # its thread need not go on, if it still does
        self._running.discard(load)
        if self._loads.get(load.key) is load:
            del self._loads[load.key]

    def _give_up(self, load: SharedLoad) -> None:
        if load.waits_for_room:
            self._finish(load, None, no_room(load.name, self._give_up_s))
        else:
            reason = f"its source gave no adapter within {self._give_up_s:g} s"
            self._finish(load, None, AdapterError(reason))

    def _take(self, load: SharedLoad, loaded: LoadedAdapter) -> Version:
        """Put a loaded adapter on the shelf, and let its name stand for it."""
        version = self._shelf.put(loaded)
        if load.key != load.name:  # one version, or a composition: no name moves
            return version
        assert loaded.source is not None
        entry = self._names.find(load.name)
        if entry is None:
            entry = self._names.add(Name(load.name, loaded.source, was_found=not load.is_asked))
        if load.number > entry.last_load:
            entry.last_load, entry.error, entry.source = load.number, None, loaded.source
            if load.is_asked:
                entry.was_found = False
            is_pinned = load.is_pinned if load.is_asked else entry.is_pinned
            self._names.move(entry, version, is_pinned=is_pinned)
        return version

    def _fail(self, load: SharedLoad, error: Exception) -> None:
        self._counters.failed()
        entry = self._names.find(load.name)
        if isinstance(error, AdapterCapacityError):
            retry_after_s = error.retry_after_s
            load.fail(lambda: AdapterCapacityError(str(error), retry_after_s=retry_after_s))
            if load.is_asked and entry is not None:
                entry.error = str(error)
        elif isinstance(error, NotFoundError):
            load.fail(lambda: NotFoundError(str(error)))
        else:
            message = self._message(load, error)
            is_missing = isinstance(error, AdapterSourceError) and error.is_missing
            if not load.is_asked:
                # What only a request has named, and no source has, does not exist.
                is_missing = is_missing and entry is None
                self._failures.remember(load.key, message, is_missing=is_missing)
            if is_missing and not load.is_asked:
                load.fail(partial(NotFoundError, message))
            else:
                load.fail(partial(AdapterLoadError, message, is_missing=is_missing))
            if entry is not None:
                entry.error = message
        if load.is_asked and entry is not None and not entry.versions and not entry.is_declared:
            self._names.remove(entry.name)

    def _message(self, load: SharedLoad, error: Exception) -> str:
        if isinstance(error, AdapterError):
            return f"adapter {load.name!r} could not be loaded: {error}"
        logger.error("adapter load failed", adapter=load.name, exc_info=error)
        return f"adapter {load.name!r} could not be loaded: {OWN_FAULT}"

    def _raise_remembered(self, key: str) -> None:
        found = self._failures.recall(key)
        if found is None:
            return
        failure, age_s = found
        if failure.is_missing:
            raise NotFoundError(failure.message)
        raise AdapterLoadError(
            f"{failure.message} (that was {age_s:.1f} s ago; it is tried again "
            f"{self._failures.memory_s:g} s after a failure)"
        )

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number


def draining() -> DrainingError:
    return DrainingError("the server is shutting down", retry_after_s=DRAIN_RETRY_AFTER_S)
