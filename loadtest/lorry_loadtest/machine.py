"""What the client runs on: what decides whether two results compare, and how much room it has."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    system: str
    cpu: str
    num_cpus: int
    python: str
    locust: str
    gevent: str
    load_average: float


def describe_machine() -> Machine:
    """Reads it once; `load_average` is the one-minute average before the run."""
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu_name(),
        num_cpus=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        python=platform.python_version(),
        locust=version("locust"),
        gevent=version("gevent"),
        load_average=os.getloadavg()[0],
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def most_streams() -> int | None:
    """How many connections this process may open beside the files that it has open now.

    None where the system sets no limit. Without /proc the open files are not counted.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    open_files = Path("/proc/self/fd")
    return limit - (len(list(open_files.iterdir())) if open_files.exists() else 0)
