"""A server that exists only as arithmetic: runs of any length in milliseconds, the same by seed.

It batches continuously: each step gives every running sequence a token, and a step's time grows
with the batch and with the prompts that are read in it. What it leaves behind is what a real run
does: records, step log, samples of counters, reports of workers.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.observations import (
    ClockSample,
    HostFacts,
    Observations,
    ServerSample,
    WorkerReport,
)
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.run_facts import DeclaredLoad, LocustTable, RunFacts

_NS_PER_MS = 1e6
_NETWORK_MS = 0.15


@dataclass(frozen=True, slots=True)
class ServerModel:
    """Milliseconds of a step: a base, more per sequence, more per prompt token, all times noise.

    `drift` is how much the noise wanders from second to second, as a busy machine's does.
    """

    base_ms: float = 6.0
    sequence_ms: float = 0.35
    prompt_token_ms: float = 0.02
    noise: float = 0.04
    drift: float = 0.0
    slowdown: float = 1.0
    max_batch: int = 32
    load_ms: float = 15.0


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of `concurrency`, or an open one of `rate_per_s`."""

    concurrency: int = 8
    rate_per_s: float | None = None
    warmup_s: float = 2.0
    duration_s: float = 30.0
    adapters: tuple[str | None, ...] = ("pirate", "pricing", None)
    max_tokens: tuple[int, int] = (16, 96)
    prompt_tokens: tuple[int, int] = (40, 120)
    seed: int = 7


@dataclass(slots=True)
class _Sequence:
    index: int
    user: int
    sched_ms: float
    adapter: str | None
    max_tokens: int
    prompt_tokens: int
    fresh: bool
    first_step_ms: float = 0.0
    first_step: int = 0
    last_step: int = 0
    load_ms: float = 0.0
    max_batch: int = 0
    arrivals_ms: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)


def simulate(load: Load, model: ServerModel, *, noise_seed: int = 0, level: int = 0) -> LevelRun:
    """One level. `load.seed` decides the requests, `noise_seed` what the server makes of them."""
    return _Simulation(load, model, noise_seed=noise_seed, level=level).run()


class _Simulation:
    def __init__(self, load: Load, model: ServerModel, *, noise_seed: int, level: int) -> None:
        self._load = load
        self._model = model
        self._level = level
        self._noise = random.Random(f"noise/{noise_seed}/{load.seed}/{level}")
        self._end_ms = 1e3 * (load.warmup_s + load.duration_s)
        self._num = 0
        self._drift = 0.0
        self._loaded: set[str | None] = {None}
        self._steps: list[dict[str, object]] = []
        self._samples: list[ServerSample] = []
        self._records: list[RequestRecord] = []
        self._tokens = 0
        self._peak = 0

    def run(self) -> LevelRun:
        arriving = self._first_arrivals()
        running: list[_Sequence] = []
        waiting: list[_Sequence] = []
        now_ms = 0.0
        next_sample_ms = 0.0
        while arriving or running or waiting:
            if not running and not waiting:
                now_ms = max(now_ms, arriving[0][0] + _NETWORK_MS)
            while arriving and arriving[0][0] + _NETWORK_MS <= now_ms:
                waiting.append(heapq.heappop(arriving)[2])
            while now_ms >= next_sample_ms:
                self._sample(next_sample_ms, len(running), len(waiting))
                next_sample_ms += 500.0
            self._peak = max(self._peak, len(running) + len(waiting))
            now_ms = self._step(now_ms, running, waiting)
            for sequence in [s for s in running if len(s.token_ms) == s.max_tokens]:
                running.remove(sequence)
                self._finish(sequence)
                again_ms = sequence.token_ms[-1] + 0.4
                if self._load.rate_per_s is None and again_ms < self._end_ms:
                    self._push(arriving, again_ms, sequence.user, fresh=False)
        self._sample(now_ms + 500.0, 0, 0)
        return self._level_run(now_ms)

    def _first_arrivals(self) -> list[tuple[float, int, _Sequence]]:
        arriving: list[tuple[float, int, _Sequence]] = []
        if self._load.rate_per_s is None:
            for user in range(self._load.concurrency):
                self._push(arriving, 1.0 + 0.3 * user, user, fresh=True)
            return arriving
        rng = random.Random(f"arrivals/{self._load.seed}/{self._level}")
        at_ms = 0.0
        while (at_ms := at_ms + 1e3 * rng.expovariate(self._load.rate_per_s)) < self._end_ms:
            self._push(arriving, at_ms, 0, fresh=False)
        return arriving

    def _push(
        self, arriving: list[tuple[float, int, _Sequence]], at_ms: float, user: int, *, fresh: bool
    ) -> None:
        rng = random.Random(f"{self._load.seed}/{self._level}/{self._num}")
        sequence = _Sequence(
            index=self._num,
            user=user,
            sched_ms=at_ms,
            adapter=rng.choice(self._load.adapters),
            max_tokens=rng.randint(*self._load.max_tokens),
            prompt_tokens=rng.randint(*self._load.prompt_tokens),
            fresh=fresh,
        )
        heapq.heappush(arriving, (at_ms, self._num, sequence))
        self._num += 1

    def _step(self, now_ms: float, running: list[_Sequence], waiting: list[_Sequence]) -> float:
        model = self._model
        prompt_tokens = attaches = 0
        fresh: list[_Sequence] = []
        while waiting and len(running) < model.max_batch:
            sequence = waiting.pop(0)
            if sequence.adapter not in self._loaded:
                self._loaded.add(sequence.adapter)
                sequence.load_ms = model.load_ms
                now_ms += model.load_ms
                attaches += 1
            sequence.first_step_ms, sequence.first_step = now_ms, len(self._steps)
            prompt_tokens += sequence.prompt_tokens
            running.append(sequence)
            fresh.append(sequence)
        took_ms = model.base_ms + model.sequence_ms * len(running)
        took_ms += model.prompt_token_ms * prompt_tokens
        self._drift = 0.995 * self._drift + self._noise.gauss(0.0, model.drift) * 0.1
        took_ms *= model.slowdown * (1 + self._drift) * self._noise.lognormvariate(0.0, model.noise)
        end_ms = now_ms + took_ms
        for sequence in running:
            sequence.token_ms.append(end_ms)
            sequence.last_step = len(self._steps)
            sequence.max_batch = max(sequence.max_batch, len(running))
        self._tokens += len(running)
        self._steps.append(
            {
                "index": len(self._steps),
                "t_ns": round(end_ms * _NS_PER_MS),
                "step_ms": took_ms,
                "batch": len(running),
                "prefill_tokens": prompt_tokens,
                "decode_tokens": len(running) - len(fresh),
                "adapters": len({s.adapter for s in running} - {None}),
                "running": len(running),
                "waiting": len(waiting),
                "kv_used": sum((s.prompt_tokens + len(s.token_ms)) // 16 + 1 for s in running),
                "kv_total": 512,
                "preemptions": 0,
                "adapter_attaches": attaches,
            }
        )
        return end_ms

    def _sample(self, at_ms: float, running: int, waiting: int) -> None:
        self._samples.append(
            ServerSample(
                t_ns=round(at_ms * _NS_PER_MS),
                values={
                    'vllm:generation_tokens_total{model_name="m"}': float(self._tokens),
                    'vllm:request_success_total{finished_reason="length"}': float(
                        len(self._records)
                    ),
                    "vllm:num_requests_running": float(running),
                    "vllm:num_requests_waiting": float(waiting),
                },
            )
        )

    def _finish(self, s: _Sequence) -> None:
        jitter = self._noise.uniform
        kernel = [round((at + _NETWORK_MS + jitter(0.0, 0.05)) * _NS_PER_MS) for at in s.token_ms]
        user = [stamp + round(jitter(0.03, 0.12) * _NS_PER_MS) for stamp in kernel]
        arrival_ms = s.sched_ms + _NETWORK_MS
        send_ns = round((s.sched_ms + jitter(0.02, 0.08)) * _NS_PER_MS)
        name = s.adapter or "base"
        self._records.append(
            RequestRecord(
                index=s.index,
                level=self._level,
                user=s.user,
                adapter=s.adapter,
                prompt_tokens_planned=s.prompt_tokens,
                max_tokens=s.max_tokens,
                prompt_hash=hashlib.sha256(f"{self._load.seed}/{s.index}".encode()).hexdigest()[
                    :16
                ],
                t_sched_ns=round(s.sched_ms * _NS_PER_MS),
                t_send_ns=send_ns,
                t_conn_ns=send_ns if s.fresh else None,
                event_kernel_ns=tuple(kernel),
                event_user_ns=tuple(user),
                event_tokens=(1,) * s.max_tokens,
                t_done_ns=user[-1],
                t_end_ns=user[-1],
                outcome="ok",
                http_status=200,
                finish_reason="length",
                usage_prompt=s.prompt_tokens + 1,
                usage_completion=s.max_tokens,
                cached_tokens=0,
                request_id=f"req-{s.index}",
                reused_connection=not s.fresh,
                kernel_stamps=True,
                num_reads=s.max_tokens,
                tokens_stated=True,
                text_hash=hashlib.sha256(name.encode()).hexdigest()[:16],
                server_timings={
                    "queue_ms": max(0.0, s.first_step_ms - arrival_ms),
                    "adapter_load_ms": s.load_ms,
                    "prepare_ms": 0.0,
                    "finish_ms": 0.0,
                    "prefill_ms": s.token_ms[0] - s.first_step_ms,
                    "decode_ms": s.token_ms[-1] - s.token_ms[0],
                    "steps": len(s.token_ms),
                    "max_batch": s.max_batch,
                    "preemptions": 0,
                    "cached_tokens": 0,
                    "first_step": s.first_step,
                    "last_step": s.last_step,
                },
            )
        )

    def _level_run(self, now_ms: float) -> LevelRun:
        load = self._load
        is_open = load.rate_per_s is not None
        heartbeats = tuple(self._noise.uniform(0.1, 3.0) for _ in range(400))
        clock = tuple(
            ClockSample(at * 10**9, 10**18 + self._noise.randrange(20_000)) for at in range(10)
        )
        report = WorkerReport(
            worker=0,
            cpu_s=0.2 * now_ms / 1e3,
            wall_s=now_ms / 1e3,
            heartbeat_lags_ms=heartbeats,
            num_records=len(self._records),
            num_planned=len(self._records) if is_open else None,
            max_in_flight=self._peak,
            clock=clock,
            host=HostFacts(steal_share=0.0, pressure_share=0.02, shares_cores=False),
        )
        shares = {name: 1 / len(load.adapters) for name in load.adapters}
        records = tuple(sorted(self._records, key=lambda record: record.t_sched_ns))
        latencies = sorted((r.event_ns[-1] - r.t_sched_ns) / 1e6 for r in records)
        p50_ms = float(round(latencies[round(0.5 * len(latencies)) - 1])) if records else None
        return LevelRun(
            concurrency=self._peak if is_open else load.concurrency,
            start_ns=0,
            window_start_ns=round(load.warmup_s * 1e9),
            window_end_ns=round(self._end_ms * _NS_PER_MS),
            drained_ns=round(now_ms * _NS_PER_MS),
            client_cpu_share=0.2,
            records=records,
            rate_per_s=load.rate_per_s,
            facts=RunFacts(
                observations=Observations(
                    stream_hash="f" * 64,
                    sent_hash="f" * 64,
                    arrival="closed" if not is_open else f"poisson:{load.rate_per_s:g}",
                    num_planned=len(records) if is_open else None,
                    workers=(report,),
                    server=tuple(self._samples),
                    steps=tuple(self._steps),
                ),
                declared=DeclaredLoad(
                    arrival="poisson" if is_open else "closed",
                    rate_per_s=load.rate_per_s,
                    arrival_cv=1.0 if is_open else None,
                    adapter_shares=shares,
                    exact_lengths=True,
                ),
                locust=LocustTable(num_requests=len(records), p50_ms=p50_ms),
            ),
        )


def simulate_levels(
    loads: Sequence[Load], model: ServerModel, *, noise_seed: int = 0
) -> list[LevelRun]:
    """One run after the other, each with prompts of its own."""
    return [
        simulate(load, model, noise_seed=noise_seed, level=level)
        for level, load in enumerate(loads)
    ]
