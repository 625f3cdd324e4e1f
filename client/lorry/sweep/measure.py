"""Runs one point of a study and makes its figures."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lorry.batch.outcome import e2e_from_intended_s, lateness_s
from lorry.batch.request import Request
from lorry.batch.run import BatchRun, GenerateItem
from lorry.batch.settings import BatchSettings
from lorry.errors import (
    AdapterInvalid,
    AdapterNotFound,
    BadRequest,
    ClientError,
    ConfigError,
    ConnectError,
    Forbidden,
    StreamProtocolError,
    Unauthorized,
)
from lorry.generation import Generation
from lorry.sweep.cautions import cautions, remarks
from lorry.sweep.cohort import Cohort
from lorry.sweep.confidence import NUM_SLICES, Estimate, latency, rate_estimate
from lorry.sweep.grid import GridPoint
from lorry.sweep.lag_sampler import LagSampler
from lorry.sweep.plan import Plan
from lorry.sweep.point import Phase, RequestRecord, SweepPoint
from lorry.sweep.requests import PromptPool, max_tokens_of
from lorry.timing import Timing

# what no other request would fare better with
_HOPELESS = (
    AdapterInvalid,
    AdapterNotFound,
    BadRequest,
    ConfigError,
    ConnectError,
    Forbidden,
    StreamProtocolError,
    Unauthorized,
)


@dataclass(slots=True)
class _Recorder:
    """Stands between the batch and the client, and writes down every request."""

    generate: GenerateItem
    cohort: Cohort
    point: GridPoint
    began_ns: int = 0
    records: list[RequestRecord] = field(default_factory=list)
    stamps: array[int] = field(default_factory=lambda: array("q"))
    tokens_per_stamp: array[float] = field(default_factory=lambda: array("d"))
    num_succeeded: int = 0
    failed_kinds: set[tuple[str | None, int]] = field(default_factory=set)
    hopeless: ClientError | None = None

    async def __call__(
        self, request: Request, options: Mapping[str, Any], /, *, intended_ns: int | None
    ) -> Generation:
        index = options["tag"]
        start_ns = time.perf_counter_ns()
        phase = self.cohort.start(index, start_ns)
        try:
            generation = await self.generate(request, options, intended_ns=intended_ns)
        except ClientError as error:
            self.records.append(self._record(index, phase, start_ns, error.timing, error))
            self._judge(self.records[-1], error)
            self.cohort.end(index, time.perf_counter_ns())
            raise
        self.num_succeeded += 1
        self.records.append(self._record(index, phase, start_ns, generation.timing, generation))
        self._count_tokens(generation)
        self.cohort.end(index, time.perf_counter_ns())
        return generation

    def _record(
        self,
        index: int,
        phase: Phase,
        start_ns: int,
        timing: Timing | None,
        result: Generation | ClientError,
    ) -> RequestRecord:
        setting = self.point.setting
        usage = None if isinstance(result, ClientError) else result.usage
        failed = isinstance(result, ClientError)
        return RequestRecord(
            index=index,
            phase=phase,
            adapter=setting.adapters[index % len(setting.adapters)],
            max_tokens=max_tokens_of(setting, index),
            start_s=(start_ns - self.began_ns) / 1e9,
            lateness_s=None if timing is None else lateness_s(timing),
            queue_s=None if timing is None else timing.queue,
            ttft_s=None if timing is None else timing.ttft,
            ttft_from_intended_s=None if timing is None else timing.ttft_from_intended,
            tpot_s=None if timing is None else timing.tpot,
            e2e_s=None if timing is None else e2e_from_intended_s(timing),
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            completion_tokens=None if usage is None else usage.completion_tokens,
            cached_tokens=None if usage is None else usage.cached_tokens,
            tokens_per_event=None if timing is None else timing.tokens_per_event,
            finish_reason=None if isinstance(result, ClientError) else result.finish_reason,
            attempts=result.attempts,
            request_id=result.request_id,
            error=type(result).__name__ if failed else None,
            error_message=str(result) if failed else None,
        )

    def _judge(self, record: RequestRecord, error: ClientError) -> None:
        """Give up when every adapter with every length has failed for good and none succeeded."""
        setting = self.point.setting
        if isinstance(error, _HOPELESS):
            self.failed_kinds.add((record.adapter, record.max_tokens))
        num_kinds = len(set(setting.adapters)) * len(set(setting.max_tokens))
        if self.num_succeeded == 0 and len(self.failed_kinds) == num_kinds:
            self.hopeless = error

    def _count_tokens(self, generation: Generation) -> None:
        stamps = generation.timing.token_ns
        if stamps:
            # a server without token ids sends events of several tokens that have one stamp
            num_tokens = generation.usage.completion_tokens or len(stamps)
            self.stamps.extend(stamps)
            self.tokens_per_stamp.extend([num_tokens / len(stamps)] * len(stamps))


async def measure_point(
    point: GridPoint,
    *,
    generate: GenerateItem,
    pool: PromptPool,
    plan: Plan,
    shared: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> SweepPoint:
    """Send requests until all that count have ended, then cancel the others.

    Raises the failure if nothing succeeds and no other request would fare better.
    """
    setting = point.setting
    cohort = Cohort(
        num_warmup=plan.num_warmup(setting),
        num_requests=plan.requests_per_point,
        duration_ns=None if plan.duration_s is None else round(plan.duration_s * 1e9),
    )
    recorder = _Recorder(generate, cohort, point, began_ns=time.perf_counter_ns())
    options = {
        **shared,
        "token_times": True,
        "concurrency": setting.concurrency,
        "arrivals": point.arrivals,
        "order": "completion",
    }
    settings = BatchSettings.read(options, on_error="return")
    run: BatchRun[Generation | ClientError] = BatchRun(
        pool.requests(setting), generate=recorder, settings=settings
    )
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    cpu_s = time.process_time()
    async with LagSampler() as lag, run:
        async for _ in run:
            if recorder.hopeless is not None:
                raise recorder.hopeless
            if cohort.is_complete:
                break
        cohort.finish(time.perf_counter_ns())
        elapsed_s = (time.perf_counter_ns() - recorder.began_ns) / 1e9
        cpu_s = time.process_time() - cpu_s
    records = tuple(sorted(recorder.records, key=lambda record: record.index))
    num_ended_in_drain = sum(record.phase == "drain" for record in records)
    measured = [r for r in records if r.phase == "measured" and r.error is None]
    window = _Window(recorder)
    figures = {
        "ttft": latency([r.ttft_s for r in measured if r.ttft_s is not None]),
        "ttft_from_intended": latency(
            [r.ttft_from_intended_s for r in measured if r.ttft_from_intended_s is not None]
        ),
        "tpot": latency([r.tpot_s for r in measured if r.tpot_s is not None]),
        "e2e": latency([r.e2e_s for r in measured if r.e2e_s is not None]),
    }
    loop_lag = lag.distribution()
    cpu_share = cpu_s / elapsed_s if elapsed_s > 0 else 0.0
    max_in_flight = run.stats().max_in_flight
    return SweepPoint(
        setting=setting,
        started_at=started_at,
        window_s=window.length_s,
        num_warmup=sum(record.phase == "warmup" for record in records),
        num_measured=cohort.num_measured,
        num_failed=sum(r.phase == "measured" and r.error is not None for r in records),
        num_drain=cohort.num_drain,
        num_cut=cohort.num_drain - num_ended_in_drain,
        max_in_flight=max_in_flight,
        output_tokens_per_s=window.tokens_per_s(),
        requests_per_s=window.requests_per_s(),
        loop_lag=loop_lag,
        client_cpu_share=cpu_share,
        cautions=cautions(
            records,
            setting=setting,
            loop_lag=loop_lag,
            client_cpu_share=cpu_share,
            max_in_flight=max_in_flight,
        ),
        remarks=remarks(records),
        records=records,
        environment=environment,
        **figures,
    )


class _Window:
    """What came in the window of a point."""

    def __init__(self, recorder: _Recorder) -> None:
        cohort = recorder.cohort
        self._start_ns = cohort.window_start_ns or 0
        self._end_ns = cohort.window_end_ns or self._start_ns
        self._num_measured = cohort.num_measured
        self._recorder = recorder

    @property
    def length_s(self) -> float:
        return (self._end_ns - self._start_ns) / 1e9

    def requests_per_s(self) -> float | None:
        """Starts in the window, which ends with the start of the next one."""
        return self._num_measured / self.length_s if self.length_s > 0 else None

    def tokens_per_s(self) -> Estimate | None:
        """Tokens whose stamps lie in the window, over equal slices of it."""
        if self.length_s <= 0:
            return None
        counts = [0.0] * NUM_SLICES
        span_ns = self._end_ns - self._start_ns
        recorder = self._recorder
        for at_ns, weight in zip(recorder.stamps, recorder.tokens_per_stamp, strict=True):
            if self._start_ns <= at_ns < self._end_ns:
                counts[(at_ns - self._start_ns) * NUM_SLICES // span_ns] += weight
        slice_s = self.length_s / NUM_SLICES
        return rate_estimate([count / slice_s for count in counts])
