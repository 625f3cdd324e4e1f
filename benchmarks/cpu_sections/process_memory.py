"""Resident memory of a process and its children, and who listens on a port, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LISTEN = "0A"  # the state's code in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes. `peak` is the sum of each process' own peak, an upper bound where there are several."""

    now_bytes: int
    peak_bytes: int


def resident(pid: int) -> Resident:
    """What `pid` and all processes that it started hold."""
    now = peak = 0
    for member in (pid, *_descendants(pid)):
        fields = _status(member)
        now += _kilobytes(fields.get("VmRSS"))
        peak += _kilobytes(fields.get("VmHWM"))
    return Resident(now * 1024, peak * 1024)


def listener_pid(base_url: str) -> int | None:
    """The process that listens on the port of `base_url` here; None where it cannot be seen."""
    port = urlsplit(base_url).port or 80
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == LISTEN and int(columns[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:  # another user's, or gone
            continue
        if inodes.intersection(links):
            return int(process.name)
    return None


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        parent = _status(int(process.name)).get("PPid")
        if parent is not None:
            children.setdefault(int(parent), []).append(int(process.name))
    found, open_ends = [], [pid]
    while open_ends:
        mine = children.get(open_ends.pop(), [])
        found += mine
        open_ends += mine
    return found


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _kilobytes(value: str | None) -> int:
    return int(value.split()[0]) if value else 0
