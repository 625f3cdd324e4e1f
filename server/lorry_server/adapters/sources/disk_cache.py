"""`DiskCache`: fetched adapters on disk, whole or not at all, within a budget of bytes.

An entry is a folder `<source>-<version>` with the files of one version; its modification time is
when it was used last. What is being written, or being removed, has a name that no entry can have. A
folder that is being written is locked by its writer, so one whose writer is gone is known by its
lock, which the system has released.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.patience import POLL_S, FetchCancelledError
from lorry_server.lora.adapter_files import REQUIRED_FILES

# Whoever has fetched an entry opens its files soon after, so the youngest are not removed.
GRACE_S = 10.0
WAIT_FOR_ROOM_S = 60.0
UNLOCKED_S = 60.0  # between making a folder and locking it
MAX_STEP_BYTES = 16 << 20  # by which the room of a file of unknown size grows

_UNFINISHED = ".unfinished-"
_REMOVED = ".removed-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskCache:
    """May be used by many threads; several processes may share the folder.

    The budget counts all entries and what this process is writing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        budget_bytes: int,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._unfinished: set[UnfinishedEntry] = set()

    def find(self, key: str) -> Path | None:
        """Return the entry's folder, which counts as used now; None if there is none."""
        with self._lock:
            folder = self._folder / key
            if not all((folder / name).is_file() for name in REQUIRED_FILES):
                return None
            now = self._clock()
            os.utime(folder, (now, now))
            return folder

    def find_newest(self, source_key: str) -> Path | None:
        """Return the version of a source that was used last, as `find` does."""
        entries = [e for e in self._entries() if e.folder.name.startswith(f"{source_key}-")]
        if not entries:
            return None
        return self.find(max(entries, key=lambda entry: entry.used_s).folder.name)

    @contextmanager
    def new_entry(self, *, cancelled: Callable[[], bool]) -> Iterator[UnfinishedEntry]:
        """An entry to write to; what has not been kept by the end of the block is removed.

        Raises AdapterSourceError when the disk does not take it.
        """
        with _disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._folder))
        entry = UnfinishedEntry(self, folder, cancelled)
        with self._lock:
            self._unfinished.add(entry)
        try:
            with _locked(folder):
                yield entry
        finally:
            with self._lock:
                self._unfinished.discard(entry)
            shutil.rmtree(folder, ignore_errors=True)

    def make_room(self, entry: UnfinishedEntry, num_bytes: int) -> None:
        """Let `entry` have `num_bytes` in all, removing what was not used for longest.

        Raises AdapterSourceError when it can never have them, or when everything that could be
        removed is in use for too long.
        """
        if num_bytes > self._budget_bytes:
            raise AdapterSourceError(
                f"an adapter of {num_bytes} bytes or more does not fit the disk cache of "
                f"{self._budget_bytes}; --adapter-disk-cache allows more"
            )
        waited_s = 0.0
        while not self._try_to_make_room(entry, num_bytes):
            if entry.cancelled():
                raise FetchCancelledError("fetching the adapter was cancelled")
            if waited_s >= WAIT_FOR_ROOM_S:
                raise AdapterSourceError(
                    f"the disk cache of {self._budget_bytes} bytes is full of adapters that are "
                    "being loaded; try again, or give --adapter-disk-cache more"
                )
            self._sleep(POLL_S)
            waited_s += POLL_S

    def grow(self, entry: UnfinishedEntry, num_bytes: int) -> None:
        """Let `entry` have at least `num_bytes`, and more at once than it asks for."""
        if num_bytes > entry.room_bytes:
            step = max(1, min(MAX_STEP_BYTES, self._budget_bytes // 64))
            self.make_room(entry, max(num_bytes, min(num_bytes + step, self._budget_bytes)))

    def _try_to_make_room(self, entry: UnfinishedEntry, num_bytes: int) -> bool:
        with self._lock:
            entries = sorted(self._entries(), key=lambda found: found.used_s)
            written = sum(other.room_bytes for other in self._unfinished if other is not entry)
            excess = sum(found.num_bytes for found in entries) + written + num_bytes
            excess -= self._budget_bytes
            # Whoever is unlucky with the clock of a network disk must not wait for ever.
            idle = (e for e in entries if not 0 <= self._clock() - e.used_s < GRACE_S)
            removable = []
            for found in idle:
                if excess <= 0:
                    break
                removable.append(found)
                excess -= found.num_bytes
            if excess > 0:
                return False
            for found in removable:
                self._remove(found.folder)
            entry.room_bytes = num_bytes
            return True

    def keep(self, unfinished: Path, key: str) -> Path:
        """Give a folder that is whole its entry's name. The first of several to finish wins."""
        folder = self._folder / key
        with self._lock:
            if folder.is_dir() and not all((folder / n).is_file() for n in REQUIRED_FILES):
                self._remove(folder)  # somebody has taken files out of it
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
            now = self._clock()
            os.utime(folder, (now, now))
        _sync(self._folder)
        return folder

    def _entries(self) -> list[_Entry]:
        found = []
        with suppress(FileNotFoundError):
            for folder in self._folder.iterdir():
                if folder.name.startswith("."):
                    continue
                with suppress(OSError):  # another process may remove it meanwhile
                    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
                    found.append(_Entry(folder, num_bytes, folder.stat().st_mtime))
        return found

    def _remove(self, folder: Path) -> None:
        """Renamed first, so that half an entry is never taken for one."""
        removed = Path(tempfile.mkdtemp(prefix=_REMOVED, dir=self._folder))
        with suppress(OSError):
            folder.rename(removed / folder.name)
        shutil.rmtree(removed, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what ended processes have left."""
        for folder in self._folder.glob(".*"):
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime < UNLOCKED_S:
                    continue
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)


class UnfinishedEntry:
    """The files of one version while they arrive. `room_bytes` is set by the cache."""

    def __init__(self, cache: DiskCache, folder: Path, cancelled: Callable[[], bool]) -> None:
        self.cancelled = cancelled
        self.room_bytes = 0
        self._cache = cache
        self._folder = folder
        self._num_bytes = 0

    def reserve(self, num_bytes: int) -> None:
        """Make room for `num_bytes` in all. Raises AdapterSourceError when there is none."""
        self._cache.make_room(self, num_bytes)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file, making room as it grows. Raises AdapterSourceError when the disk is full."""
        with _disk_errors(self._folder.parent), (self._folder / name).open("xb") as file:
            for piece in pieces:
                self._num_bytes += len(piece)
                self._cache.grow(self, self._num_bytes)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def keep(self, key: str) -> Path:
        """Make it the entry `key`, and return the entry's folder."""
        with _disk_errors(self._folder.parent):
            _sync(self._folder)
            return self._cache.keep(self._folder, key)


@dataclass(frozen=True, slots=True)
class _Entry:
    folder: Path
    num_bytes: int
    used_s: float


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; raise OSError where somebody else does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Say what the disk's errors mean for the cache in `folder`."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise AdapterSourceError(
                f"the disk of the adapter cache {str(folder)!r} is full; free some of it, or give "
                "--cache-dir another"
            ) from exc
        raise AdapterSourceError(
            f"cannot write to the adapter cache {str(folder)!r}: "
            f"{os.strerror(exc.errno) if exc.errno else type(exc).__name__}"
        ) from exc


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
