"""The run of a benchmark's sections: one that fails is named at the end and the others go on."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cpu_sections.contestant import ContestantError
from cpu_sections.report import Report, machine
from cpu_sections.timer_floor import StolenTime
from lorry_loadtest.local_server import ServerFailedError

FAILURES = (ContestantError, ServerFailedError, RuntimeError, OSError)


def new_report(out: Path | None) -> Report:
    """A report that says on which machine and with which arguments it was made."""
    conditions = machine() | {
        "arguments": sys.argv[1:],
        "lorry": importlib.metadata.version("lorry"),
    }
    return Report(out, conditions)


def run_sections(report: Report, sections: Sequence[str], run: Callable[[str], None]) -> int:
    """Run each section, print the table, and return the exit status: 1 if one has failed."""
    failed = []
    for section in sections:
        stolen = StolenTime()
        try:
            run(section)
        except FAILURES as exc:
            report.progress(f"{section} failed: {type(exc).__name__}: {exc}")
            failed.append(section)
        report.disturbed(section, stolen.share())
    print(report.markdown())
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
