"""Sends a recorded stream again: the same requests at the same times, whatever the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.schedule import Schedule


class NotReplayable(ValueError):
    """The records are not a whole stream, or not of the workload; the text says which."""


@dataclass(frozen=True, slots=True)
class RecordedArrivals:
    """Arrivals as they were recorded; stands where a user class has its `arrival`.

    `times_ns[i]` is when request i arrived, from the start of the level.
    """

    times_ns: tuple[int, ...]
    process: str = "trace"

    def times_s(self, *, seed: int | str, until_s: float) -> Iterator[float]:
        """The seed decides nothing here."""
        return (ns / 1e9 for ns in self.times_ns if ns < until_s * 1e9)


def recorded_arrivals(records: Sequence[RequestRecord]) -> RecordedArrivals:
    """Of one level's records, in any order. Raises NotReplayable when an index is missing."""
    times = {record.index: record.t_sched_ns for record in records}
    if sorted(times) != list(range(len(times))):
        missing = next(index for index in range(len(times) + 1) if index not in times)
        raise NotReplayable(f"request {missing} of the stream has no record")
    if not times:
        raise NotReplayable("there is no record")
    start_ns = min(times.values())
    # a closed loop's indices may be drawn a moment before an earlier one is sent
    ordered = sorted(ns - start_ns for ns in times.values())
    return RecordedArrivals(tuple(ordered))


def check_same_stream(schedule: Schedule, records: Sequence[RequestRecord]) -> None:
    """Raises NotReplayable when the workload would send something else than was recorded."""
    by_index = {record.index: record for record in records}
    for index in range(len(schedule)):
        planned, record = schedule.request_at(index), by_index[index]
        if _asked(planned) != (record.adapter, record.max_tokens, record.prompt_hash):
            raise NotReplayable(
                f"request {index} was for {record.adapter or 'the base model'} with "
                f"{record.max_tokens} tokens; the options make another one of it"
            )


def _asked(planned: PlannedRequest) -> tuple[str | None, int, str]:
    return planned.adapter, planned.max_tokens, planned.prompt_hash
