"""Resident memory after many short requests."""

from __future__ import annotations

from collections.abc import Sequence

from cpu_sections.contestant import Contestant, Work
from cpu_sections.process_memory import resident
from cpu_sections.report import Report, Row

MIB = 1 << 20


def memory(report: Report, contestants: Sequence[Contestant], *, num_requests: int) -> None:
    """Send `num_requests` of 16 tokens in and 8 out, then read VmRSS and VmHWM."""
    figures = {}
    for contestant in contestants:
        if contestant.pid is None:
            report.progress(f"memory: the process of {contestant.name} cannot be seen; left out")
            continue
        at_start = resident(contestant.pid)
        contestant.run(Work(16, num_requests, prompt_tokens=16, new_tokens=8, seed=11))
        at_end = resident(contestant.pid)
        figures[contestant.name] = {
            "at_start_bytes": at_start.now_bytes,
            "at_end_bytes": at_end.now_bytes,
            "peak_bytes": at_end.peak_bytes,
        }
        report.progress(f"memory: {contestant.name}: {at_end.now_bytes / MIB:.0f} MiB")
    if contestants[0].name not in figures:
        report.keep("memory", figures)
        return
    mine = figures[contestants[0].name]
    what = f"resident after {num_requests} short requests"
    report.add(
        Row(
            "memory",
            f"{what}, beside its start; peak {mine['peak_bytes'] / MIB:.0f} MiB",
            mine["at_end_bytes"] / mine["at_start_bytes"],
            f"{mine['at_end_bytes'] / MIB:.0f} MiB",
            f"{mine['at_start_bytes'] / MIB:.0f} MiB",
        )
    )
    for name, theirs in list(figures.items())[1:]:
        report.add(
            Row(
                "memory",
                f"{what}, beside {name}",
                mine["at_end_bytes"] / theirs["at_end_bytes"],
                f"{mine['at_end_bytes'] / MIB:.0f} MiB",
                f"{theirs['at_end_bytes'] / MIB:.0f} MiB",
            )
        )
    report.keep("memory", figures)
