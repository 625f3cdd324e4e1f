"""What a study is made of: the setting of a point, its requests, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from lorry.distribution import Distribution, format_rate, format_seconds
from lorry.sweep.confidence import Estimate, Latency

BASE = "base model"

Phase: TypeAlias = Literal["warmup", "measured", "drain"]


class PointSetting(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the grid. Requests take `adapters`, and then `max_tokens`, in turn.

    Of `concurrency` and `arrivals` one is None: requests in flight, or the schedule as it prints.
    """

    adapters: tuple[str | None, ...]
    max_tokens: tuple[int, ...]
    concurrency: int | None = None
    arrivals: str | None = None

    @property
    def curve(self) -> str:
        """The part that the points of one curve share."""
        adapters = " + ".join(name or BASE for name in self.adapters)
        return f"{adapters}, {' + '.join(map(str, self.max_tokens))} tokens"

    @property
    def load(self) -> str:
        """The part in which the points of one curve differ."""
        return str(self.concurrency) if self.concurrency is not None else str(self.arrivals)

    def __str__(self) -> str:
        unit = "" if self.concurrency is None else " in flight"
        return f"{self.curve}, {self.load}{unit}"


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request that ended. Times are in seconds, `start_s` from the start of the point.

    `ttft_s` starts at the sending, `ttft_from_intended_s` and `e2e_s` when the request was due.
    """

    index: int
    phase: Phase
    adapter: str | None
    max_tokens: int
    start_s: float
    lateness_s: float | None = None
    queue_s: float | None = None
    ttft_s: float | None = None
    ttft_from_intended_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    tokens_per_event: float | None = None
    finish_reason: str | None = None
    attempts: int = 1
    request_id: str | None = None
    error: str | None = None
    error_message: str | None = None


class SweepPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured at one setting.

    Latencies are of the `num_measured` requests that did not fail; throughput is of all tokens
    that came in the window of `window_s` seconds. Left out are `num_warmup` requests from the
    start and `num_drain` that kept the load up until the last measured one had ended; of those
    `num_cut` were cancelled then. `loop_lag` is how late the client's event loop was;
    `client_cpu_share` how much of a core the process used. `cautions` say why the figures are not
    to be trusted, `remarks` what they are of.
    """

    setting: PointSetting
    started_at: str
    window_s: float
    num_warmup: int
    num_measured: int
    num_failed: int
    num_drain: int
    num_cut: int
    max_in_flight: int
    output_tokens_per_s: Estimate | None
    requests_per_s: float | None
    ttft: Latency
    ttft_from_intended: Latency
    tpot: Latency
    e2e: Latency
    loop_lag: Distribution
    client_cpu_share: float
    cautions: tuple[str, ...]
    remarks: tuple[str, ...]
    records: tuple[RequestRecord, ...]
    environment: Mapping[str, Any]

    @property
    def is_trustworthy(self) -> bool:
        """Whether nothing was seen that puts the figures in doubt."""
        return not self.cautions

    @property
    def measured(self) -> list[RequestRecord]:
        """The requests that the latencies are of."""
        return [r for r in self.records if r.phase == "measured" and r.error is None]

    def __str__(self) -> str:
        rate = self.output_tokens_per_s
        ttft = self.ttft_from_intended.p50
        return (
            f"{self.setting}: {format_rate(None if rate is None else rate.value)} tok/s, "
            f"ttft p50 {format_seconds(None if ttft is None else ttft.value)}, "
            f"{self.num_failed} of {self.num_measured} failed"
            + "".join(f"; {caution}" for caution in self.cautions)
        )

    def __repr__(self) -> str:
        return f"<SweepPoint {self}>"


class StudySetting(msgspec.Struct, frozen=True, kw_only=True):
    """What all points of a study share. Points of unlike studies are not put into one file."""

    requests_per_point: int | None
    duration_s: float | None
    warmup: int | None
    seed: int
    prompts: str
    options: Mapping[str, Any]
