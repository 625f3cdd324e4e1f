"""Opens and reads regular files only, without following a symbolic link anywhere on the way.

A folder that somebody else can write to may change between two looks at it: a file becomes a named
pipe that nobody feeds, a folder a link to another place. So nothing is asked by path first and
opened by path later. The path is walked from the root, every step relative to the folder that is
open already, and what has been opened is then asked what it is.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from lorry_server.errors import AdapterError

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# What the system says of a link that must not be followed, and of one where a folder should be.
_LINK_ERRORS = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)


def read_regular_file(path: Path, *, max_bytes: int) -> bytes:
    """Return the whole content of the file at `path`, which has no symbolic link in it.

    Never waits for a writer, as opening a named pipe would. Raises AdapterError with a sentence
    for a file that is not there, is not a regular one, lies behind a link, is larger than
    `max_bytes`, or cannot be read.
    """
    try:
        folder_fd = open_folder(path.parent)
        try:
            file_fd = open_regular(path.name, folder_fd=folder_fd)
        finally:
            os.close(folder_fd)
        with open(file_fd, "rb") as opened:
            num_bytes = os.fstat(file_fd).st_size
            if num_bytes > max_bytes:
                raise AdapterError(f"{str(path)!r} has {num_bytes} bytes; {max_bytes} are allowed")
            content = opened.read(num_bytes + 1)  # one more, to see whether it grows
    except NotRegularError as exc:
        raise AdapterError(f"{str(path)!r} is {exc}, not a regular file") from exc
    except OSError as exc:
        raise AdapterError(f"{str(path)!r} {explain_os_error(exc)}") from exc
    if len(content) != num_bytes:
        raise AdapterError(f"{str(path)!r} was written to while it was read; try again")
    return content


class NotRegularError(Exception):
    """Something else than a regular file; `str` says what, as in "a named pipe"."""


def open_folder(path: Path) -> int:
    """Return a descriptor of the folder; raise OSError where a part of its path is a link."""
    whole = Path.cwd() / path
    # O_PATH asks only for the right to pass through a folder, which is all that may be granted.
    access = getattr(os, "O_PATH", os.O_RDONLY)
    flags = access | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder_fd = os.open(whole.anchor, flags)
    try:
        for part in whole.parts[1:]:
            below_fd = os.open(part, flags, dir_fd=folder_fd)
            os.close(folder_fd)
            folder_fd = below_fd
    except BaseException:
        os.close(folder_fd)
        raise
    return folder_fd


def open_regular(name: str, *, folder_fd: int) -> int:
    """Return a descriptor of the file `name` of an open folder.

    Raises NotRegularError for anything but a regular file, OSError when it cannot be opened.
    """
    # Asked before as well as after: opening a device can do things.
    refuse_unless_regular(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file_fd = os.open(name, flags, dir_fd=folder_fd)
    try:
        refuse_unless_regular(os.fstat(file_fd).st_mode)
    except BaseException:
        os.close(file_fd)
        raise
    return file_fd


def refuse_unless_regular(mode: int) -> None:
    """Raise NotRegularError that says what the `st_mode` stands for."""
    if stat.S_ISREG(mode):
        return
    kinds = [words for is_kind, words in _KINDS if is_kind(mode)]
    raise NotRegularError(kinds[0] if kinds else "something else")


def explain_os_error(error: OSError) -> str:
    """What goes behind the name of a file that could not be opened or read."""
    if isinstance(error, FileNotFoundError):
        return "is not there"
    if isinstance(error, PermissionError):
        return "may not be read by this server's user"
    if error.errno in _LINK_ERRORS:
        return "lies behind a symbolic link or in something that is no folder"
    return f"cannot be read: {os.strerror(error.errno) if error.errno else type(error).__name__}"
