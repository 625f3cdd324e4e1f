"""`RemoteFolder`: an adapter at a URL that fsspec reads: HTTP, S3 and whatever else is installed."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.place import (
    PIECE_BYTES,
    Description,
    SourceFile,
    check_files,
)
from lorry_server.adapters.sources.remote_failure import RedirectedError, is_missing, source_error
from lorry_server.adapters.sources.source_url import SourceUrl
from lorry_server.lora.adapter_files import ADAPTER_FILES, PICKLE_FILE

CONNECT_S = 10
READ_S = 30

# What file systems call that which changes with a file, in lower case and without "-" and "_".
_VERSION_KEYS = {
    "etag",
    "generation",
    "versionid",
    "contentmd5",
    "md5hash",
    "digest",
    "lastmodified",
    "mtime",
    "updated",
    "created",
    "ino",
}


class FileSystems:
    """fsspec's file systems by scheme, each made when it is first needed."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get(self, scheme: str) -> Any:
        """The file system; raise AdapterSourceError that says what to install."""
        with self._lock:
            if scheme not in self._made:
                self._made[scheme] = _make(scheme)
            return self._made[scheme]


class RemoteFolder:
    def __init__(self, url: SourceUrl, file_systems: FileSystems) -> None:
        self._url = url
        self._source = str(url)
        self._file_systems = file_systems

    def describe(self) -> Description:
        files, versions = [], []
        for name in ADAPTER_FILES:
            info = self._info(name)
            if info is None:
                continue
            size = info.get("size")
            files.append(SourceFile(name, size if isinstance(size, int) and size >= 0 else None))
            versions.append(_version(name, info))
        found = tuple(files)
        check_files(
            found, source=self._source, has_pickle=lambda: self._info(PICKLE_FILE) is not None
        )
        can_tell = all(version is not None for version in versions)
        return Description(found, "\n".join(map(str, versions)) if can_tell else None)

    def read(self, file: SourceFile) -> Generator[bytes, None, None]:
        file_system = self._file_systems.get(self._url.scheme)
        options: dict[str, Any] = {}
        if self._url.scheme in ("http", "https"):
            # One answer, read as it comes; else every piece would be a request of its own. The
            # size is there to spare a question, and only that it is not zero matters.
            options = {"block_size": 0, "size": file.num_bytes or 1}
        try:
            with file_system.open(self._at(file.name), "rb", **options) as opened:
                while piece := opened.read(PIECE_BYTES):
                    yield piece
        except Exception as exc:
            raise source_error(exc, self._what(file.name)) from exc

    def _info(self, name: str) -> Mapping[str, Any] | None:
        file_system = self._file_systems.get(self._url.scheme)
        try:
            file_system.invalidate_cache()
            info: Mapping[str, Any] = file_system.info(self._at(name))
        except Exception as exc:
            if is_missing(exc):
                return None
            raise source_error(exc, self._what(name)) from exc
        if info.get("type", "file") != "file":
            raise AdapterSourceError(f"{self._what(name)} is not a file")
        return info

    def _at(self, name: str) -> str:
        return f"{self._source}/{name}"

    def _what(self, name: str) -> str:
        return f"{name} at {self._source!r}"


def _version(name: str, info: Mapping[str, Any]) -> str | None:
    facts = {
        key: str(value)
        for key, value in info.items()
        if value is not None and key.lower().replace("-", "").replace("_", "") in _VERSION_KEYS
    }
    return f"{name}:{info.get('size')}:{sorted(facts.items())}" if facts else None


def _make(scheme: str) -> Any:
    fsspec = _fsspec(scheme)
    try:
        # Not one that somebody else in this process made with options of their own.
        return fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme))
    except ImportError as exc:
        raise AdapterSourceError(
            f"reading {scheme}:// needs a package that is not installed: {_advice(scheme)}"
        ) from exc
    except ValueError as exc:
        raise AdapterSourceError(f"{scheme}:// is not a kind of source that fsspec knows") from exc
    except Exception as exc:
        raise source_error(exc, f"files by {scheme}://") from exc


def _fsspec(scheme: str) -> ModuleType:
    try:
        import fsspec
    except ImportError as exc:
        raise AdapterSourceError(
            f"reading {scheme}:// needs fsspec: pip install 'lorry[remote]'"
        ) from exc
    module: ModuleType = fsspec
    return module


def _advice(scheme: str) -> str:
    from fsspec.registry import known_implementations

    if scheme in ("s3", "s3a"):
        return "pip install 'lorry[remote]'"
    known: Mapping[str, Any] = known_implementations.get(scheme, {})
    return str(known.get("err", f"see fsspec's documentation of {scheme}"))


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("http", "https"):
        import aiohttp

        return {
            "client_kwargs": {
                "timeout": aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_S, sock_read=READ_S
                ),
                "raise_for_status": _refuse_answer,
            },
            "allow_redirects": False,
            # A compressed answer has another size than the file.
            "headers": {"Accept-Encoding": "identity"},
        }
    if scheme in ("s3", "s3a"):
        return {
            "config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": READ_S},
            "use_listings_cache": False,
        }
    return {}


async def _refuse_answer(answer: Any) -> None:
    """What aiohttp calls with every answer before anybody reads it."""
    if 300 <= answer.status < 400:
        target = urlsplit(answer.headers.get("Location", ""))
        answer.close()
        raise RedirectedError(f"{target.scheme}://{target.hostname}/" if target.hostname else "?")
    answer.raise_for_status()
