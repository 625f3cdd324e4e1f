"""`WatchedFolders`: what a poll finds new, changed or gone in the watched directories.

Only a folder that two polls found the same, and whole, is given on. All methods read the disk or
change state, none waits for anything else; call them from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorry_server.adapters.whole_adapter import Stamps, stamps_of, why_not_whole
from lorry_server.lora.adapter_files import ADAPTER_FILES, CONFIG_FILE
from lorry_server.lora.names import check_adapter_name

# A copy that stalls for so many polls is given on as it is: the library's refusal then tells
# everybody what is wrong with it, until it changes.
PATIENCE = 10
POLLS_TO_BE_GONE = 2  # a folder that is being replaced is missing for a moment


@dataclass(frozen=True, slots=True)
class Changed:
    """Load `folder` as `name`."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Gone:
    name: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Told once for each content: it is not whole, or may not be served."""

    name: str
    folder: Path
    reason: str


Finding = Changed | Gone | Waiting


@dataclass(slots=True)
class _Folder:
    path: Path
    seen: Stamps
    num_same: int = 0  # polls, after the first, that found it as it was
    settled: Stamps | None = None  # given on in this form
    told: Stamps | None = None  # its reader was told in this form
    num_missing: int = 0


class WatchedFolders:
    """The PEFT folders directly below `directories`, by the names that they are served under.

    A folder's name is the adapter's. Hidden folders are passed over, since writers use them for
    what is unfinished, and so are links, which may change where they lead. Where two directories
    have a folder of one name, the first directory's counts.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)
        self._folders: dict[str, _Folder] = {}
        self._told_paths: set[str] = set()

    def poll(self) -> list[Finding]:
        """Look once. A `Changed` folder is not found again until it changes again."""
        findings: list[Finding] = []
        present = dict(self._present(findings))
        for name, path in present.items():
            stamps = stamps_of(path)
            folder = self._folders.get(name)
            if folder is None or folder.path != path:
                settled = folder.settled if folder is not None else None
                self._folders[name] = _Folder(path, stamps, settled=settled)
                continue
            folder.num_missing = 0
            if stamps != folder.seen:
                folder.seen, folder.num_same = stamps, 0
                continue
            folder.num_same += 1
            if stamps != folder.settled:
                findings.extend(self._look_closer(name, folder))
        for name in [name for name in self._folders if name not in present]:
            folder = self._folders[name]
            folder.num_missing += 1
            if folder.num_missing >= POLLS_TO_BE_GONE:
                del self._folders[name]
                if folder.settled is not None:
                    findings.append(Gone(name))
        return findings

    def _look_closer(self, name: str, folder: _Folder) -> Iterator[Finding]:
        reason = why_not_whole(folder.path)
        if reason is None or folder.num_same >= PATIENCE:
            # What was looked at must be what was stamped.
            if stamps_of(folder.path) == folder.seen:
                folder.settled = folder.seen
                yield Changed(name, folder.path)
        elif folder.told != folder.seen:
            folder.told = folder.seen
            yield Waiting(name, folder.path, reason)

    def _present(self, findings: list[Finding]) -> Iterator[tuple[str, Path]]:
        names: set[str] = set()
        for directory in self._directories:
            for path in _adapter_folders(directory):
                reason = _why_not_served(path)
                if reason is None and path.name in names:
                    reason = "another watched directory has a folder of this name"
                if reason is None:
                    names.add(path.name)
                    yield path.name, path
                elif str(path) not in self._told_paths:
                    self._told_paths.add(str(path))
                    findings.append(Waiting(path.name, path, reason))


def _adapter_folders(directory: Path) -> list[Path]:
    """Paths without links before their last part, in the order of their names."""
    try:
        # The operator may let the directory itself be a link.
        entries = sorted(directory.resolve().iterdir())
    except OSError:
        return []  # it may come later, as the first checkpoint does
    return [path for path in entries if not path.name.startswith(".") and _has_config(path)]


def _has_config(folder: Path) -> bool:
    try:
        (folder / CONFIG_FILE).lstat()
    except OSError:
        return False
    return True


def _why_not_served(folder: Path) -> str | None:
    try:
        check_adapter_name(folder.name)
    except ValueError as exc:
        return str(exc)
    for path in (folder, *(folder / name for name in ADAPTER_FILES)):
        if path.is_symlink():
            return f"{path.name} is a symbolic link, and these are not followed"
    return None
