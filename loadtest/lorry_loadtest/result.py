"""The result of a run: what `report.json` holds and the report shows."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lorry_loadtest.find_max import FoundMax
from lorry_loadtest.gate.gate import GatedRun, GateResult
from lorry_loadtest.metrics_compat import CompatTable
from lorry_loadtest.request_figures import RequestFigures
from lorry_loadtest.run_info import RunInfo
from lorry_loadtest.stalls import Stall
from lorry_loadtest.summary import LevelSummary
from lorry_loadtest.validity.verdict import Verdict
from lorry_loadtest.waterfall import Waterfall

SCHEMA_VERSION = 2


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """`headline` and `remarks` say the result in words. Names that end in `_ms` are milliseconds.

    `requests` has the figures of each level's requests, for a later run to be compared with.
    `slowest` are the waterfalls of the last level's slowest requests, `waterfalls_closed` the share
    of all that closes, `stalls` the longest of all levels, of `num_stalls`.
    """

    schema_version: int = SCHEMA_VERSION
    headline: str
    remarks: tuple[str, ...]
    info: RunInfo
    verdict: Verdict
    levels: tuple[LevelSummary, ...]
    requests: tuple[RequestFigures, ...]
    stream_hash: str = ""
    found: FoundMax | None = None
    gate: tuple[GateResult, ...] = ()
    compat: CompatTable | None = None
    slowest: tuple[Waterfall, ...] = ()
    waterfalls_closed: float | None = None
    stalls: tuple[Stall, ...] = ()
    num_stalls: int = 0

    @property
    def gated(self) -> GatedRun:
        """The level that a gate compares: the last one on the way up."""
        places = [place for place, level in enumerate(self.levels) if not level.descending]
        level = self.levels[places[-1]]
        return GatedRun(
            figures=self.requests[places[-1]],
            window_s=level.window_s,
            concurrency=level.concurrency if level.rate_per_s is None else None,
        )

    @property
    def num_failed(self) -> int:
        return sum(level.num_failed for level in self.levels)


def write_result(path: Path, result: RunResult) -> None:
    """As indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def read_result(path: Path) -> RunResult:
    """Reads what `write_result` wrote; msgspec.ValidationError names a field that is wrong."""
    result = msgspec.json.decode(path.read_bytes(), type=RunResult)
    if result.schema_version != SCHEMA_VERSION:
        raise msgspec.ValidationError(
            f"{path}: schema_version is {result.schema_version}, not {SCHEMA_VERSION}"
        )
    return result
