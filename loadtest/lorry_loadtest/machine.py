"""What the client ran on: the part of a result that decides whether two of them compare."""

from __future__ import annotations

import os
import platform
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
