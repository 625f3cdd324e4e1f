"""The result of a run: what `report.json` holds and the report shows."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lorry_loadtest.machine import Machine
from lorry_loadtest.summary import LevelSummary

SCHEMA_VERSION = 1


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was run: `command` repeats it, `started_at` is UTC in ISO 8601."""

    url: str
    base_model: str
    adapters: dict[str, float]
    route: str
    prompt_words: str
    max_tokens: str
    ignore_eos: bool
    seed: int
    warmup_s: float
    duration_s: float
    command: str
    started_at: str
    version: str
    machine: Machine


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """`verdict` is the report's first line. Milliseconds wherever a name ends in `_ms`."""

    schema_version: int = SCHEMA_VERSION
    verdict: str
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
