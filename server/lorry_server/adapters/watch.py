"""`AdapterWatch`: serves new checkpoints as they are saved (`lorry serve --watch DIR`).

It polls, so it needs nothing of the system and works on network disks as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from lorry_server.adapters.watched_folders import Changed, Gone, Waiting, WatchedFolders
from lorry_server.errors import LorryServerError

logger = structlog.get_logger(__name__)

POLL_S = 1.0


class WatchedLibrary(Protocol):
    """What the watch needs of the library of adapters."""

    async def load(self, name: str, source: str, *, replace: bool, preload: bool = True) -> object:
        """Raises LorryServerError; what had the name before is then served on."""
        ...

    def unload(self, name: str) -> None: ...

    def find(self, name: str) -> object | None: ...


class AdapterWatch:
    """Keeps the adapters of the library that lie in the watched directories as the disk has them.

    A name that something else has taken is left alone. An adapter that cannot be loaded is tried
    again when its files change, and not before.
    """

    def __init__(
        self, library: WatchedLibrary, directories: Sequence[Path], *, poll_s: float = POLL_S
    ) -> None:
        self._library = library
        self._folders = WatchedFolders(directories)
        self._poll_s = poll_s
        self._owned: set[str] = set()
        self._work: dict[str, asyncio.Task[None]] = {}  # at most one for each name

    async def run(self) -> None:
        """Poll until cancelled. Loads that are under way are then cancelled too."""
        try:
            while True:
                await self.poll_once()
                await asyncio.sleep(self._poll_s)
        finally:
            for task in self._work.values():
                task.cancel()

    async def poll_once(self) -> None:
        """Look once and begin what has to be done; a slow load does not hold up the others."""
        for finding in await asyncio.to_thread(self._folders.poll):
            match finding:
                case Waiting(name, folder, reason):
                    logger.warning(
                        "adapter folder not served", adapter=name, path=str(folder), reason=reason
                    )
                case Changed(name) | Gone(name):
                    before = self._work.get(name)
                    task = asyncio.create_task(self._follow(finding, before))
                    self._work[name] = task
                    task.add_done_callback(partial(self._forget, name))

    async def settled(self) -> None:
        """Wait for what the polls have begun."""
        while self._work:
            await asyncio.wait(list(self._work.values()))

    def _forget(self, name: str, done: asyncio.Task[None]) -> None:
        if self._work.get(name) is done:
            del self._work[name]
        if not done.cancelled() and done.exception() is not None:
            logger.error("watched adapter failed", adapter=name, exc_info=done.exception())

    async def _follow(self, finding: Changed | Gone, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        if isinstance(finding, Gone):
            self._unload(finding.name)
        else:
            await self._load(finding)

    async def _load(self, finding: Changed) -> None:
        name, path = finding.name, str(finding.folder)
        if name not in self._owned and self._library.find(name) is not None:
            logger.warning(
                "adapter folder not served", adapter=name, path=path, reason="the name is taken"
            )
            return
        self._owned.add(name)
        try:
            if self._library.find(name) is None:
                # Declared first, so that it is listed even when it cannot be loaded.
                await self._library.load(name, path, replace=True, preload=False)
            await self._library.load(name, path, replace=True)
        except LorryServerError as exc:
            logger.warning("watched adapter refused", adapter=name, path=path, reason=str(exc))
        else:
            logger.info("watched adapter loaded", adapter=name, path=path)

    def _unload(self, name: str) -> None:
        if name not in self._owned:
            return
        self._owned.discard(name)
        if self._library.find(name) is None:
            return  # a client has unloaded it
        try:
            self._library.unload(name)
        except LorryServerError as exc:
            logger.warning("watched adapter not unloaded", adapter=name, reason=str(exc))
        else:
            logger.info("watched adapter unloaded", adapter=name)
