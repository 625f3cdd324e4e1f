"""`ConfiguredSources`: `AdapterSources` for the places that the configuration allows, and no other."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.disk_cache import DiskCache, UnfinishedEntry
from lorry_server.adapters.sources.flights import Flights
from lorry_server.adapters.sources.hub_repository import HubRepository
from lorry_server.adapters.sources.local_folder import MAX_PATH_LENGTH, LocalFolder, find_below
from lorry_server.adapters.sources.patience import Patience
from lorry_server.adapters.sources.place import (
    Description,
    OfflineError,
    Place,
    SourceFile,
    check_sizes,
    most_bytes,
    refuse_size,
)
from lorry_server.adapters.sources.remote_folder import FileSystems, RemoteFolder
from lorry_server.adapters.sources.source_url import SourceUrl, is_url, parse_prefix, parse_url
from lorry_server.errors import StartupError
from lorry_server.lora.names import check_adapter_name

ATTEMPTS = 2  # at reading files that do not change meanwhile
ABSENCE_S = 30.0  # how long a name that no remote root had is not looked for again
MAX_ABSENCES = 4096

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedSources:
    """What the command line says.

    `roots` are where names are looked up: folders, and URLs. `prefixes` are URLs, `folders` folders
    below which a source may be named in full. `named` are sources that the operator gave a name to.
    """

    roots: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    max_adapter_bytes: int
    disk_cache_bytes: int


class ConfiguredSources:
    """May be used by many threads. Remote adapters are kept in `cache_dir`.

    `hub` stands in for the module huggingface_hub, which is else imported when it is needed.
    Raises StartupError for a root that is not there, ValueError for a URL that is not one.
    """

    def __init__(
        self,
        allowed: AllowedSources,
        *,
        cache_dir: Path,
        hub: Any = None,
        patience: Patience | None = None,
        cache: DiskCache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        urls = [parse_prefix(text) for text in (*allowed.roots, *allowed.prefixes) if is_url(text)]
        folders = [_absolute(text) for text in allowed.roots if not is_url(text)]
        folders += [_absolute(text) for text in allowed.folders]
        self._folders = [*folders, *(Path(url.path) for url in urls if url.scheme == "file")]
        self._prefixes = [url for url in urls if url.scheme != "file"]
        self._roots = [
            parse_prefix(text) if is_url(text) else _absolute(text) for text in allowed.roots
        ]
        for folder in self._folders:
            if not folder.is_dir():
                raise StartupError(
                    f"adapters are to be read below {str(folder)!r}, which is no folder"
                )
        self._named = frozenset(allowed.named)
        self._max_bytes = allowed.max_adapter_bytes
        self._hub = hub
        self._file_systems = FileSystems()
        self._patience = patience or Patience()
        self._cache = cache or DiskCache(
            cache_dir / "adapters", budget_bytes=allowed.disk_cache_bytes
        )
        self._flights: Flights[Path] = Flights()
        self._absences = _Absences(clock)

    def find(self, name: str) -> str | None:
        """Return the source that the first root with an adapter `name` has for it.

        A root that cannot be asked is taken to have it, so that fetching says what is wrong.
        """
        try:
            check_adapter_name(name)
        except ValueError:
            return None
        for root in self._roots:
            found = self._find_at(root, name)
            if found is not None:
                return found
        return None

    def fetch(self, source: str, *, cancelled: Callable[[], bool]) -> Path:
        """Return a folder on this machine with the adapter's files, as they are at `source` now.

        The path has no symbolic links in it, and its files are to be opened without following any
        (`lora.regular_file`). What is not on this machine is fetched, once for all who ask at the
        same time, and only if it has changed since it was. Raises AdapterSourceError.
        """
        full, place = self._place(source)
        return self._flights.join(
            full,
            lambda is_abandoned: self._fetch(place, full, is_abandoned),
            cancelled=cancelled,
        )

    def _find_at(self, root: Path | SourceUrl, name: str) -> str | None:
        if isinstance(root, SourceUrl) and root.scheme != "file":
            return self._find_remote(root, name)
        folder = root if isinstance(root, Path) else Path(root.path)
        return find_below(folder, name)

    def _find_remote(self, root: SourceUrl, name: str) -> str | None:
        # The hub's own names for its repositories are names of adapters as well.
        whole = SourceUrl("hf", name)
        url = whole if root.scheme == "hf" and whole.is_below(root) else root.below(name)
        if self._absences.has(str(url)):
            return None
        try:
            place = self._remote(url)
            self._patience.ask(place.describe, what=repr(str(url)), cancelled=lambda: False)
        except AdapterSourceError as exc:
            if exc.is_missing:
                self._absences.add(str(url))
                return None
            if url.scheme == "hf" and url.path.count("/") != 1:
                return None  # not a repository's name
        return str(url)

    def _place(self, source: str) -> tuple[str, Place]:
        """The source in full, and what it stands for.

        Raises AdapterSourceError where it is not allowed.
        """
        is_named = source in self._named
        if is_url(source):
            return self._place_of_url(source, is_named=is_named)
        if is_named:
            return source, LocalFolder(_absolute(source), roots=None)
        if source.startswith("/"):
            return source, self._local(Path(source), source)
        return self._place_of_name(source)

    def _place_of_url(self, source: str, *, is_named: bool) -> tuple[str, Place]:
        try:
            url = parse_url(source)
        except ValueError as exc:
            raise AdapterSourceError(str(exc)) from exc
        if url.scheme == "file":
            path = Path(url.path)
            place = LocalFolder(path, roots=None) if is_named else self._local(path, source)
            return url.path, place
        if not is_named and not self._allows(url):
            raise AdapterSourceError(
                f"{_shown(source)} is not a source that this server may read; start it with "
                f"--adapter-source {url.place} to allow it"
            )
        return str(url), self._remote(url)

    def _allows(self, url: SourceUrl) -> bool:
        return any(url.is_below(prefix) for prefix in self._prefixes)

    def _local(self, path: Path, source: str) -> Place:
        if len(source) > MAX_PATH_LENGTH or not source.isprintable() or ".." in path.parts:
            raise AdapterSourceError(
                f"{_shown(source)} is not a path that this server reads: '..', unprintable "
                f"characters and more than {MAX_PATH_LENGTH} of them are not allowed"
            )
        # By the words alone at first: what lies elsewhere is not even looked at.
        if not any(
            path.is_relative_to(root) or path.is_relative_to(os.path.realpath(root))
            for root in self._folders
        ):
            raise AdapterSourceError(
                f"{_shown(source)} is not below a folder that this server may read adapters from; "
                f"start it with --adapter-root {_shown(str(path.parent))} to allow it"
            )
        return LocalFolder(path, roots=self._folders)

    def _remote(self, url: SourceUrl) -> Place:
        if url.scheme == "hf":
            return HubRepository(url, self._hub or _import_hub())
        return RemoteFolder(url, self._file_systems)

    def _place_of_name(self, source: str) -> tuple[str, Place]:
        """A bare name is looked up as a request's is, then taken for a repository of the hub."""
        found = self.find(source)
        if found is None and self._is_allowed_repository(source):
            url = SourceUrl("hf", source)
            return str(url), self._remote(url)
        if found is None:
            raise AdapterSourceError(
                f"no adapter found for {_shown(source)}: it is neither a name below an "
                "--adapter-root, nor an absolute path, nor a URL",
                is_missing=True,
            )
        return self._place(found)

    def _is_allowed_repository(self, source: str) -> bool:
        try:
            check_adapter_name(source)
        except ValueError:
            return False
        return "/" in source and self._allows(SourceUrl("hf", source))

    def _fetch(self, place: Place, source: str, cancelled: Callable[[], bool]) -> Path:
        source_key = _key(source)
        try:
            description = self._describe(place, source, cancelled)
        except OfflineError:
            kept = self._cache.find_newest(source_key)
            if kept is None:
                raise
            return kept
        for _ in range(ATTEMPTS):
            check_sizes(description.files, source=source, max_bytes=self._max_bytes)
            if description.folder is not None:
                return description.folder
            if description.version is not None:
                kept = self._cache.find(f"{source_key}-{_key(description.version)}")
                if kept is not None:
                    return kept
            with self._cache.new_entry(cancelled=cancelled) as entry:
                started_s = time.perf_counter()
                download = self._download(place, description, source, entry, cancelled)
                # What was read is one version only if nothing changed until all was read.
                after = description
                if not description.is_snapshot:
                    after = self._describe(place, source, cancelled)
                if after == description:
                    version = description.version or download.content.hexdigest()
                    folder = entry.keep(f"{source_key}-{_key(version)}")
                    logger.info(
                        "adapter fetched",
                        source=source,
                        num_bytes=download.num_bytes,
                        seconds=round(time.perf_counter() - started_s, 3),
                    )
                    return folder
            description = after
        raise AdapterSourceError(
            f"the adapter at {_shown(source)} changes while it is read; try again when it is whole"
        )

    def _describe(self, place: Place, source: str, cancelled: Callable[[], bool]) -> Description:
        return self._patience.ask(place.describe, what=_shown(source), cancelled=cancelled)

    def _download(
        self,
        place: Place,
        description: Description,
        source: str,
        entry: UnfinishedEntry,
        cancelled: Callable[[], bool],
    ) -> _Download:
        entry.reserve(sum(file.num_bytes or 0 for file in description.files))
        download = _Download(hash_content=description.version is None)
        for file in description.files:
            pieces = self._patience.iterate(
                partial(place.read, file),
                what=f"{file.name} at {_shown(source)}",
                cancelled=cancelled,
            )
            with closing(pieces):
                entry.write(
                    file.name,
                    download.checked(pieces, file, source=source, max_bytes=self._max_bytes),
                )
        return download


@dataclass(slots=True)
class _Download:
    """What has come, held against what was promised."""

    hash_content: bool
    num_bytes: int = 0
    content: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def checked(
        self, pieces: Iterator[bytes], file: SourceFile, *, source: str, max_bytes: int
    ) -> Iterator[bytes]:
        """Yield the pieces; raise AdapterSourceError when they are too many or too few."""
        received = 0
        for piece in pieces:
            received += len(piece)
            if received > most_bytes(file, max_bytes):
                refuse_size(file, received, source=source, max_bytes=max_bytes)
            if file.num_bytes is not None and received > file.num_bytes:
                raise AdapterSourceError(
                    f"{file.name} at {_shown(source)} was to have {file.num_bytes} bytes, and more "
                    "came"
                )
            if self.hash_content:
                self.content.update(piece)
            yield piece
        if file.num_bytes is not None and received < file.num_bytes:
            raise AdapterSourceError(
                f"{file.name} at {_shown(source)} ended after {received} of {file.num_bytes} bytes"
            )
        self.num_bytes += received


class _Absences:
    """Names that a remote root did not have a moment ago; asked again after `ABSENCE_S`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since_s: OrderedDict[str, float] = OrderedDict()

    def has(self, url: str) -> bool:
        with self._lock:
            since_s = self._since_s.get(url)
        return since_s is not None and self._clock() - since_s < ABSENCE_S

    def add(self, url: str) -> None:
        with self._lock:
            self._since_s[url] = self._clock()
            self._since_s.move_to_end(url)
            if len(self._since_s) > MAX_ABSENCES:
                self._since_s.popitem(last=False)


def _import_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as exc:
        raise AdapterSourceError(
            "reading hf:// needs huggingface_hub: pip install 'lorry[server]'"
        ) from exc
    return huggingface_hub


def _absolute(text: str) -> Path:
    return Path.cwd() / Path(text).expanduser()


def _key(text: str) -> str:
    # a path that the operator named may hold bytes that are no text
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _shown(source: str) -> str:
    return repr(source[:200])
