"""What is observed beside the records while a run goes on: clocks, workers, the server's own words.

Times are nanoseconds on the same clock as those of the records, unless a name says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


class ClockSample(msgspec.Struct, frozen=True, array_like=True):
    """CLOCK_REALTIME less the monotonic clock, at `t_ns`. It moves when the wall clock is set."""

    t_ns: int
    realtime_offset_ns: int


class ServerSample(msgspec.Struct, frozen=True, kw_only=True):
    """One read of `/metrics`: the value of each series, by its name with labels."""

    t_ns: int
    values: dict[str, float]


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A client's machine during the run. Shares are 0 to 1; None is what it does not tell.

    `steal_share` is time that the hypervisor took, `pressure_share` the kernel's CPU pressure
    (PSI, some), `frequency_drop` how far the clock fell from the start of the run, and
    `shares_cores` whether server and client may run on the same core.
    """

    steal_share: float | None = None
    pressure_share: float | None = None
    governor: str | None = None
    frequency_drop: float | None = None
    shares_cores: bool | None = None


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker fared. CPU is in seconds; a lag is how late a 10 ms heartbeat came.

    `num_planned` arrivals were this worker's of an open loop (None: a closed one), `num_due` of
    them before the end of the run, and `num_dropped` of those were never sent. `max_in_flight` is
    the most streams that it had open at once, and `most_streams` how many it had room for (None:
    any number). `host` is its machine.
    """

    worker: int
    cpu_s: float
    wall_s: float
    heartbeat_lags_ms: tuple[float, ...]
    num_records: int
    num_planned: int | None = None
    num_due: int | None = None
    num_dropped: int = 0
    max_in_flight: int = 0
    most_streams: int | None = None
    clock: tuple[ClockSample, ...] = ()
    host: HostFacts | None = None


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The error of this client on this machine, against a mock server with known token times.

    Milliseconds, of absolute errors: `ttft` of first tokens, `gap` of the gaps after them. `user_*`
    are the same by the stamps that a client without the kernel's would have. `kernel_stamps` is
    the share of attempts that had them, and `cpu_us_per_event` the client's own CPU time.
    """

    num_requests: int
    num_events: int
    events_per_s: float
    ttft_error_p50_ms: float
    ttft_error_p99_ms: float
    gap_error_p50_ms: float
    gap_error_p99_ms: float
    user_ttft_error_p99_ms: float
    user_gap_error_p99_ms: float
    lag_p99_ms: float
    kernel_stamps: float
    cpu_us_per_event: float


class CanaryBook(msgspec.Struct, frozen=True, kw_only=True):
    """Known answers: the hash of each canary's text, and those that the idle server gave twice
    differently, which cannot be compared."""

    answers: dict[str, str] = {}
    unstable: tuple[str, ...] = ()


class Observations(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run's. `stream_hash` is of the requests as planned, `sent_hash` as sent.

    Of `num_planned` arrivals `num_due` were due before the run was ended. `num_workers` were to hand
    over what they had (None: there was one process).
    `steps` are the server's step log, as it sent it, with `t_ns` added on our clock where the
    server told its own. What a server does not offer is empty, with a sentence in `notes`.
    """

    scenario: str = ""
    arrival: str = "closed"
    stream_hash: str = ""
    sent_hash: str = ""
    num_planned: int | None = None
    num_due: int | None = None
    num_workers: int | None = None
    workers: tuple[WorkerReport, ...] = ()
    calibration: Calibration | None = None
    canaries: CanaryBook | None = None
    server: tuple[ServerSample, ...] = ()
    steps: tuple[dict[str, Any], ...] = ()
    sdk_overhead: dict[str, float] | None = None
    notes: tuple[str, ...] = ()


def write_observations(path: Path, observations: Observations) -> None:
    """As one JSON object."""
    path.write_bytes(msgspec.json.encode(observations) + b"\n")


def read_observations(path: Path) -> Observations:
    """Reads what `write_observations` wrote; msgspec.ValidationError names a wrong field."""
    return msgspec.json.decode(path.read_bytes(), type=Observations)
