"""`Report`: the rows of the one table, the raw figures beside it, and progress on the way."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `ratio` is ours to `beside`, in the sense that `what` says; None has no peer."""

    section: str
    what: str
    ratio: float | None
    ours: str
    beside: str = ""
    wanted: str = ""


class Report:
    """Gathers rows and raw figures; writes JSON after every section, so that none is lost."""

    def __init__(self, out: Path | None, conditions: dict[str, Any]) -> None:
        self._out = out
        self._conditions = conditions
        self._rows: list[Row] = []
        self._raw: dict[str, Any] = {}
        self._started_s = time.monotonic()

    def progress(self, line: str) -> None:
        print(f"[{time.monotonic() - self._started_s:6.1f} s] {line}", file=sys.stderr, flush=True)

    def add(self, *rows: Row) -> None:
        self._rows += rows

    def keep(self, section: str, figures: Any) -> None:
        self._raw[section] = figures
        if self._out is not None:
            self._out.write_text(json.dumps(self._document(), indent=1) + "\n")

    def disturbed(self, section: str, stolen_share: float | None) -> None:
        """Note the share of the cores' time that the host gave to others during a section."""
        if stolen_share is not None:
            self.add(
                Row(
                    section,
                    "share of the cores' time taken by the host",
                    None,
                    f"{stolen_share:.1%}",
                )
            )
            self.keep(f"{section}_stolen_share", stolen_share)

    def markdown(self) -> str:
        lines = ["| ratio | wanted | what | ours | beside |", "|---|---|---|---|---|"]
        for row in self._rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            what = f"{row.section}: {row.what}"
            lines.append(f"| {ratio} | {row.wanted} | {what} | {row.ours} | {row.beside} |")
        return "\n".join(lines)

    def _document(self) -> dict[str, Any]:
        return {
            "conditions": self._conditions,
            "rows": [asdict(row) for row in self._rows],
            "raw": self._raw,
        }


def median_ratio(ours: Sequence[float], beside: Sequence[float]) -> float:
    """The median over rounds of ours to the other's figure of the same round."""
    return statistics.median(a / b for a, b in zip(ours, beside, strict=True))


def machine() -> dict[str, Any]:
    """What a reader needs to know about where the figures come from."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "vector_units": [
            f for f in ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8") if f in flags
        ],
        "load_at_start": os.getloadavg(),
        "python": platform.python_version(),
        "utc": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }
