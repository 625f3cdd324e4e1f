"""`HubRepository`: an adapter on the Hugging Face hub, at the commit that its revision is now."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.place import (
    PIECE_BYTES,
    Description,
    OfflineError,
    SourceFile,
    check_files,
)
from lorry_server.adapters.sources.remote_failure import source_error
from lorry_server.adapters.sources.source_url import SourceUrl
from lorry_server.lora.adapter_files import ADAPTER_FILES, PICKLE_FILE

ASK_S = 10.0
DEFAULT_REVISION = "main"

_REPOSITORY = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[A-Za-z0-9][\w./-]{0,127}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class _Found:
    """`in_cache` are the files that huggingface_hub's own cache holds of the commit."""

    commit: str
    files: tuple[SourceFile, ...]
    in_cache: dict[str, Path]
    has_pickle: bool


class HubRepository:
    """`hub` is the module huggingface_hub, or what stands in for it.

    Only the files of an adapter are asked for. They come from huggingface_hub's cache where it has
    that commit; when HF_HUB_OFFLINE is set, only from there.
    """

    def __init__(self, url: SourceUrl, hub: Any) -> None:
        match = _REPOSITORY.fullmatch(url.path)
        if match is None:
            raise AdapterSourceError(
                f"{str(url)!r} is not a repository of the hub; write hf://owner/name or "
                "hf://owner/name@revision"
            )
        self._source = str(url)
        self._id = match["id"]
        self._revision = match["revision"] or DEFAULT_REVISION
        self._hub = hub
        self._file_system: Any = None
        self._found: _Found | None = None

    def describe(self) -> Description:
        found = self._look()
        self._found = found
        check_files(found.files, source=self._source, has_pickle=lambda: found.has_pickle)
        return Description(found.files, found.commit, is_snapshot=True)

    def read(self, file: SourceFile) -> Generator[bytes, None, None]:
        """Yield the file as it was at the commit that was described last."""
        found = self._found
        assert found is not None, "described before it is read"
        try:
            if file.name in found.in_cache:
                yield from _pieces(found.in_cache[file.name].open("rb"))
            else:
                if self._file_system is None:
                    self._file_system = self._hub.HfFileSystem(skip_instance_cache=True)
                path = f"{self._id}@{found.commit}/{file.name}"
                yield from _pieces(self._file_system.open(path, "rb", block_size=0))
        except Exception as exc:
            raise self._error(exc, f"{file.name} at {self._source!r}") from exc

    def _look(self) -> _Found:
        try:
            info = self._hub.HfApi().model_info(
                self._id, revision=self._revision, files_metadata=True, timeout=ASK_S
            )
        except self._hub.errors.OfflineModeIsEnabled as exc:
            cached = self._look_in_cache()
            if cached is None:
                raise OfflineError(
                    f"{self._source!r} is not on this machine, and HF_HUB_OFFLINE is set"
                ) from exc
            return cached
        except Exception as exc:
            raise self._error(exc, f"repository {self._source!r}") from exc
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
        return _Found(
            commit=info.sha,
            files=tuple(SourceFile(name, sizes[name]) for name in ADAPTER_FILES if name in sizes),
            in_cache=self._cached(info.sha),
            has_pickle=PICKLE_FILE in sizes,
        )

    def _look_in_cache(self) -> _Found | None:
        """What the cache has of the revision, which may be less than the repository has."""
        cached = self._cached(self._revision)
        if not cached:
            return None
        return _Found(
            # The cache keeps each commit's files in a folder that has the commit's name.
            commit=next(iter(cached.values())).parent.name,
            files=tuple(SourceFile(name, path.stat().st_size) for name, path in cached.items()),
            in_cache=cached,
            has_pickle=False,
        )

    def _cached(self, revision: str) -> dict[str, Path]:
        found = {
            name: self._hub.try_to_load_from_cache(self._id, name, revision=revision)
            for name in ADAPTER_FILES
        }
        # anything but a path says that the file is not there, or not known
        return {name: Path(path) for name, path in found.items() if isinstance(path, str)}

    def _error(self, error: Exception, what: str) -> AdapterSourceError:
        errors = self._hub.errors
        if isinstance(error, errors.GatedRepoError):
            return AdapterSourceError(
                f"cannot fetch {what}: the repository is gated; accept its terms on the hub and "
                "set HF_TOKEN for the server"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return AdapterSourceError(
                f"cannot fetch {what}: the repository has no revision {self._revision!r}",
                is_missing=True,
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return AdapterSourceError(
                f"cannot fetch {what}: the hub has no such repository, or it is private and the "
                "server's HF_TOKEN does not open it",
                is_missing=True,
            )
        return source_error(error, what)


def _pieces(opened: Any) -> Generator[bytes, None, None]:
    with opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece
