"""Reads what a run left in its folder, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from lorry_loadtest.compare import UnreadableResult, load_result
from lorry_loadtest.observations import read_observations
from lorry_loadtest.records import RequestRecord, read_records
from lorry_loadtest.result import RunResult
from lorry_loadtest.server_steps import ServerStep, read_steps
from lorry_loadtest.write_report import observations_name


class RecordedRun(msgspec.Struct, frozen=True, kw_only=True):
    """`levels` are the records of each level of `result`, in its order."""

    folder: str
    result: RunResult
    levels: tuple[tuple[RequestRecord, ...], ...]

    def stream_of(self, level: int) -> int:
        """Which seeded stream that level sent. A search does not run its levels in their order."""
        stream = self.result.levels[level].stream
        return level if stream is None else stream

    def steps(self, level: int) -> tuple[ServerStep, ...]:
        """The server's step log of that level; empty when it offered none."""
        path = Path(self.folder) / observations_name(level)
        return read_steps(read_observations(path).steps) if path.exists() else ()


def read_run(path: Path) -> RecordedRun:
    """`path` is the folder of a run, or its records.jsonl. Raises UnreadableResult."""
    folder = path if path.is_dir() else path.parent
    result = load_result(folder)
    file = folder / "records.jsonl"
    try:
        records = [record for record in read_records(file) if record.phase == "run"]
    except OSError as exc:
        raise UnreadableResult(f"{file}: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise UnreadableResult(f"{file} is no list of records: {exc}") from exc
    return RecordedRun(folder=str(folder), result=result, levels=_split(records, result, file))


def _split(
    records: Sequence[RequestRecord], result: RunResult, file: Path
) -> tuple[tuple[RequestRecord, ...], ...]:
    """Records stand in the order of the levels, and a level's ledger counts them all."""
    levels = []
    start = 0
    for level in result.levels:
        end = start + sum(level.ledger.values())
        levels.append(tuple(records[start:end]))
        start = end
    if start != len(records):
        raise UnreadableResult(f"{file} has {len(records)} records, report.json tells of {start}")
    return tuple(levels)
