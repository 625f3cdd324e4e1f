"""`LocalFolder`: an adapter in a folder of this machine, below a root that may be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Sequence
from io import FileIO
from pathlib import Path

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.place import (
    PIECE_BYTES,
    Description,
    SourceFile,
    check_files,
)
from lorry_server.lora.adapter_files import ADAPTER_FILES, CONFIG_FILE, PICKLE_FILE
from lorry_server.lora.regular_file import (
    NotRegularError,
    explain_os_error,
    open_folder,
    open_regular,
)

MAX_PATH_LENGTH = 4096


class LocalFolder:
    """The folder at the absolute `path`; without `roots` the operator named it, and may link.

    Where none of its files is a link, they are served from where they lie: the description's
    folder is a path without links. Else they are copied, because a link that was checked may lead
    elsewhere when it is followed.
    """

    def __init__(self, path: Path, *, roots: Sequence[Path] | None) -> None:
        self._path = path
        self._roots = roots
        self._source = str(path)

    def describe(self) -> Description:
        files, versions, has_links = [], [], False
        folder = self._real(self._path)
        folder_fd = self._open_folder(folder)
        try:
            for name in ADAPTER_FILES:
                status = self._status(name, folder_fd)
                if status is None:
                    continue
                if stat.S_ISLNK(status.st_mode):
                    has_links = True
                file_fd = self._open_file(name, folder_fd)
                try:
                    status = os.fstat(file_fd)
                finally:
                    os.close(file_fd)
                files.append(SourceFile(name, status.st_size))
                versions.append(
                    f"{name}:{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
                )
            has_pickle = self._status(PICKLE_FILE, folder_fd) is not None
        finally:
            os.close(folder_fd)
        found = tuple(files)
        check_files(found, source=self._source, has_pickle=lambda: has_pickle)
        return Description(found, "\n".join(versions), None if has_links else folder)

    def read(self, file: SourceFile) -> Generator[bytes, None, None]:
        folder_fd = self._open_folder(self._real(self._path))
        try:
            file_fd = self._open_file(file.name, folder_fd)
        finally:
            os.close(folder_fd)
        with open(file_fd, "rb", buffering=0) as opened:
            while piece := self._piece(opened, file.name):
                yield piece

    def _piece(self, opened: FileIO, name: str) -> bytes:
        try:
            return opened.read(PIECE_BYTES)
        except OSError as exc:
            raise self._unreadable(name, exc) from exc

    def _real(self, path: Path) -> Path:
        """The path without links, if it is still below a root then."""
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError as exc:
            raise self._unreadable("", exc) from exc
        except ValueError as exc:  # a NUL in it
            raise AdapterSourceError(f"{self._source!r} is not a path") from exc
        if self._roots is None or any(
            real.is_relative_to(_real_root(root)) for root in self._roots
        ):
            return real
        raise AdapterSourceError(
            f"{self._source!r} is or holds a symbolic link that leads out of the folders which "
            "this server may read; put the files themselves there, or allow where they lie with "
            "--adapter-root"
        )

    def _open_folder(self, folder: Path) -> int:
        try:
            return open_folder(folder)
        except OSError as exc:
            raise self._unreadable("", exc) from exc

    def _status(self, name: str, folder_fd: int) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._unreadable(name, exc) from exc

    def _open_file(self, name: str, folder_fd: int) -> int:
        """A descriptor of the file, or of what it is a link to."""
        try:
            if not stat.S_ISLNK(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode):
                return open_regular(name, folder_fd=folder_fd)
            target = self._real(self._path / name)
            target_fd = open_folder(target.parent)
            try:
                return open_regular(target.name, folder_fd=target_fd)
            finally:
                os.close(target_fd)
        except NotRegularError as exc:
            raise AdapterSourceError(
                f"{name} at {self._source!r} is {exc}, not a regular file"
            ) from exc
        except OSError as exc:
            raise self._unreadable(name, exc) from exc

    def _unreadable(self, name: str, error: OSError) -> AdapterSourceError:
        what = f"{name} at {self._source!r}" if name else repr(self._source)
        return AdapterSourceError(
            f"{what} {explain_os_error(error)}", is_missing=isinstance(error, FileNotFoundError)
        )


def find_below(root: Path, name: str) -> str | None:
    """The path that `root` has for a checked adapter name, if something lies there."""
    folder = root / name
    try:
        if folder.is_symlink() and not folder.resolve(strict=True).is_relative_to(_real_root(root)):
            return str(folder)  # to be refused with its reason
        os.stat(folder / CONFIG_FILE, follow_symlinks=False)
    except PermissionError:
        return str(folder)  # likewise
    except (OSError, RuntimeError):  # Python 3.11 and 3.12 raise the latter for a loop of links
        return None
    return str(folder)


def _real_root(root: Path) -> Path:
    # Asked each time: an operator may let a root be a link and point it elsewhere.
    return Path(os.path.realpath(root))
