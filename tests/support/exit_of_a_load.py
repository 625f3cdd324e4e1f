"""The exit code of a load test on a machine that may be busy with other things."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

# checks that fail where somebody else has the processors: figures of that run are not to be used
OF_THE_MACHINE = frozenset({1, 9, 12, 25})


def assert_ended_with(code: int, done: subprocess.CompletedProcess[str], folder: Path) -> None:
    """The code is that one, or 3 where the report has nothing against the run but its machine."""
    report = json.loads((folder / "report.json").read_text())
    failed = {
        result["number"]
        for result in report["verdict"]["results"]
        if result["finding"]["status"] == "fail"
    }

    assert failed <= OF_THE_MACHINE, done.stdout
    assert done.returncode == (3 if failed else code), done.stderr
