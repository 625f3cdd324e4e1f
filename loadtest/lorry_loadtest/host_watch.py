"""Watches the client's machine during a run: time that others took, and whether its clock held."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lorry_loadtest.observations import HostFacts

_PROC = Path("/proc")
_SYS_CPU = Path("/sys/devices/system/cpu")
_STEAL = 7  # user nice system idle iowait irq softirq steal, after the name
_LOCAL = ("127.0.0.1", "localhost", "::1")


class HostWatch:
    """Begins with its making; `stop` tells of the time since. What a system lacks is None."""

    def __init__(self, server_host: str, *, proc: Path = _PROC, sys_cpu: Path = _SYS_CPU) -> None:
        self._server_host = server_host
        self._proc = proc
        self._sys_cpu = sys_cpu
        self._ticks = self._read_ticks()
        self._pressure_us = self._read_pressure()
        self._frequency = self._read_frequency()
        self._uptime_s = self._read_uptime()

    def stop(self) -> HostFacts:
        frequency = self._read_frequency()
        drop = None
        if self._frequency and frequency:
            drop = max(0.0, 1.0 - frequency / self._frequency)
        return HostFacts(
            steal_share=self._steal(),
            pressure_share=self._pressure(),
            governor=self._text(self._sys_cpu / "cpu0" / "cpufreq" / "scaling_governor"),
            frequency_drop=drop,
            shares_cores=_may_share_cores(self._server_host),
        )

    def _steal(self) -> float | None:
        now = self._read_ticks()
        if now is None or self._ticks is None:
            return None
        grown = [later - earlier for earlier, later in zip(self._ticks, now, strict=True)]
        return grown[_STEAL] / sum(grown) if sum(grown) else 0.0

    def _pressure(self) -> float | None:
        now, uptime_s = self._read_pressure(), self._read_uptime()
        if now is None or self._pressure_us is None or uptime_s is None or self._uptime_s is None:
            return None
        passed_us = (uptime_s - self._uptime_s) * 1e6
        return min(1.0, (now - self._pressure_us) / passed_us) if passed_us > 0 else 0.0

    def _read_ticks(self) -> Sequence[int] | None:
        text = self._text(self._proc / "stat")
        if text is None:
            return None
        return [int(word) for word in text.splitlines()[0].split()[1 : _STEAL + 2]]

    def _read_pressure(self) -> int | None:
        """Microseconds in which something waited for a processor (PSI, `some`)."""
        text = self._text(self._proc / "pressure" / "cpu")
        if text is None:
            return None
        return int(text.splitlines()[0].rpartition("total=")[2])

    def _read_frequency(self) -> float | None:
        """MHz of the fastest processor, as is the one that runs this: idle ones slow down by
        themselves, and at the end of a run most are idle."""
        text = self._text(self._proc / "cpuinfo")
        if text is None:
            return None
        speeds = [
            float(line.partition(":")[2])
            for line in text.splitlines()
            if line.startswith("cpu MHz")
        ]
        return max(speeds, default=None)

    def _read_uptime(self) -> float | None:
        text = self._text(self._proc / "uptime")
        return None if text is None else float(text.split()[0])

    @staticmethod
    def _text(path: Path) -> str | None:
        try:
            return path.read_text().strip()
        except OSError:
            return None


def _may_share_cores(server_host: str) -> bool | None:
    """True for a server of the same machine, unless this process was pinned: then who knows."""
    if server_host not in _LOCAL:
        return False
    if not hasattr(os, "sched_getaffinity"):
        return True
    is_pinned = len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)
    return None if is_pinned else True
