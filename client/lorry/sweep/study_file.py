"""A study on disk: a line that says what the points share, then one line per point.

Points are appended as they are measured, so a study that was interrupted goes on from its file. A
torn last line is dropped, and its point measured again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from lorry.errors import ConfigError
from lorry.sweep.point import StudySetting, SweepPoint


class _Header(msgspec.Struct, frozen=True):
    lorry_sweep: int
    setting: StudySetting


@dataclass(frozen=True, slots=True)
class Study:
    """What a file holds; `num_bytes` without a torn last line."""

    setting: StudySetting
    points: tuple[SweepPoint, ...]
    num_bytes: int


def read_study(path: Path) -> Study:
    """Raises ConfigError for a file that is not a study or is damaged, OSError if there is none."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    first, *lines = whole.splitlines() or [b""]
    try:
        header = msgspec.json.decode(first, type=_Header)
    except msgspec.DecodeError:
        raise ConfigError(f"{path} is not a file of lorry.sweep") from None
    points = []
    for number, line in enumerate(lines, start=2):
        try:
            points.append(msgspec.json.decode(line, type=SweepPoint))
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}, line {number} is damaged: {error}") from None
    return Study(header.setting, tuple(points), len(whole))


def begin_study(path: Path, setting: StudySetting) -> None:
    """Write a new file, over one that is there."""
    path.write_bytes(msgspec.json.encode(_Header(1, setting)) + b"\n")


def append_point(path: Path, point: SweepPoint) -> None:
    """Add a point to a study that has been begun."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(point) + b"\n")


def resume_study(path: Path, setting: StudySetting) -> tuple[SweepPoint, ...]:
    """The points that are in the file already; begins it if it does not exist.

    Raises ConfigError when its points are of another setting, and says in what.
    """
    if not path.exists() or path.stat().st_size == 0:
        begin_study(path, setting)
        return ()
    study = read_study(path)
    for name in StudySetting.__struct_fields__:
        before, now = getattr(study.setting, name), getattr(setting, name)
        if before != now:
            raise ConfigError(
                f"{path} holds a study with {name} {before!r}, this one has {now!r}: give another "
                "file, or the same settings"
            )
    with path.open("r+b") as file:
        file.truncate(study.num_bytes)
    return study.points
