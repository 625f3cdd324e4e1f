"""The result of a run: what `report.json` holds and the report shows."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lorry_loadtest.run_info import RunInfo
from lorry_loadtest.summary import LevelSummary

SCHEMA_VERSION = 1


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """`headline` and `remarks` say the result in words. Names that end in `_ms` are milliseconds."""

    schema_version: int = SCHEMA_VERSION
    headline: str
    remarks: tuple[str, ...]
    info: RunInfo
    levels: tuple[LevelSummary, ...]

    @property
    def num_failed(self) -> int:
        return sum(level.num_failed for level in self.levels)


def write_result(path: Path, result: RunResult) -> None:
    """As indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def read_result(path: Path) -> RunResult:
    """Reads what `write_result` wrote; msgspec.ValidationError names a field that is wrong."""
    return msgspec.json.decode(path.read_bytes(), type=RunResult)
