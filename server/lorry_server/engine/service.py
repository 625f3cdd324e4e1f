"""`EngineService`: the engine in a thread of its own, behind the `EngineClient` protocol.

The event loop puts requests and aborts into an inbox; the engine's thread empties it before each
step and hands back everything that the step produced with one call into the loop. The thread
waits while there is nothing to do. Compiled kernels hold no interpreter lock, so the loop goes on
while a step computes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from lorry_server.engine.client import EngineInfo, EngineStats, RequestStream
from lorry_server.engine.engine import Engine, StepFailed
from lorry_server.engine.outputs import FinishReason, TokenOutput
from lorry_server.engine.request import Request
from lorry_server.engine.step_log import StepLog
from lorry_server.engine.token_stream import TokenStream
from lorry_server.errors import AdapterError, DrainingError, EngineDeadError, QueueFullError
from lorry_server.lora.prepared import PreparedAdapter

logger = structlog.get_logger(__name__)

# A step that fails takes its own sequences with it. One that fails again and again is no accident.
MAX_CONSECUTIVE_FAILURES = 3


@dataclass(frozen=True, slots=True)
class _Add:
    request: Request


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class _LiftDeadline:
    request_id: str


@dataclass(frozen=True, slots=True)
class _EndAll:
    pass


@dataclass(frozen=True, slots=True)
class _Offer:
    prepared: PreparedAdapter


@dataclass(frozen=True, slots=True)
class _Withdraw:
    digest: str


@dataclass(frozen=True, slots=True)
class _SetWeight:
    digest: str | None
    weight: float


_Message = _Add | _Abort | _LiftDeadline | _EndAll | _Offer | _Withdraw | _SetWeight


class EngineService:
    """Owns the engine's thread. `start` is called on the loop that will read the streams."""

    def __init__(self, engine: Engine, info: EngineInfo) -> None:
        self._engine = engine
        self._info = info
        self._on_death: Callable[[], None] | None = None
        self._inbox: deque[_Message] = deque()
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="lorry-engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        # What follows belongs to the loop's thread.
        self._streams: dict[str, TokenStream] = {}
        self._is_draining = False
        self._is_dead = False
        self._idle: asyncio.Event | None = None
        self._drain_rate = _DrainRate()
        # Replaced whole by the engine's thread at each step boundary, read by anyone.
        self._stats = EngineStats()
        self._last_progress_s = time.perf_counter()

    # -- life cycle

    def start(self, *, on_death: Callable[[], None] | None = None) -> None:
        """Start the thread. Call once, on the event loop.

        `on_death` is called on that loop when the engine has failed for good.
        """
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread.start()

    async def stop(self) -> None:
        """Abort what is left, end the thread and wait for it."""
        for stream in list(self._streams.values()):
            stream.abort()
        self._is_stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    def begin_drain(self, *, end_after_s: float | None = None) -> None:
        """Refuse new requests from now on; end the accepted ones after a while, if it is given."""
        self._is_draining = True
        if end_after_s is not None and self._loop is not None:
            # May be called from a signal handler.
            self._loop.call_soon_threadsafe(self._loop.call_later, end_after_s, self.end_all)

    def end_all(self) -> None:
        """Abort every accepted request: the time to finish them is over."""
        self._inbox.append(_EndAll())
        self._wake.set()

    async def drain(self) -> None:
        """Refuse new requests and return when every accepted one has ended."""
        assert self._idle is not None
        self.begin_drain()
        await self._idle.wait()

    # -- EngineClient

    @property
    def info(self) -> EngineInfo:
        return self._info

    def submit(self, requests: Sequence[Request]) -> list[RequestStream]:
        """See `EngineClient.submit`."""
        if self._is_dead:
            raise EngineDeadError("the engine has failed; the server is about to end")
        if self._is_draining:
            raise DrainingError("the server is shutting down", retry_after_s=5.0)
        capacity = self._info.max_num_seqs + self._info.max_queued_requests
        if len(self._streams) + len(requests) > capacity:
            raise QueueFullError(
                f"the server already holds {len(self._streams)} sequences of at most {capacity}",
                retry_after_s=self._drain_rate.seconds_until_free(len(requests)),
            )
        streams = [
            TokenStream(request.request_id, abort=self._abort, lift_deadline=self._lift_deadline)
            for request in requests
        ]
        for request, stream in zip(requests, streams, strict=True):
            assert request.request_id not in self._streams, "request ids are unique"
            self._streams[request.request_id] = stream
            self._inbox.append(_Add(request))
        assert self._idle is not None
        self._idle.clear()
        self._wake.set()
        return list(streams)

    def offer_adapter(self, prepared: PreparedAdapter) -> None:
        """See `EngineClient.offer_adapter`."""
        if prepared.num_bytes > self._info.adapter_budget_bytes:
            raise AdapterError(
                f"an adapter of {prepared.num_bytes} bytes can never be loaded: the memory for "
                f"adapters is {self._info.adapter_budget_bytes} bytes"
            )
        if self._loop is None:  # the engine has no thread yet
            self._engine.offer_adapter(prepared)
            return
        self._inbox.append(_Offer(prepared))
        self._wake.set()

    def withdraw_adapter(self, digest: str) -> None:
        """See `EngineClient.withdraw_adapter`."""
        if self._loop is None:
            self._engine.withdraw_adapter(digest)
            return
        self._inbox.append(_Withdraw(digest))
        self._wake.set()

    def set_adapter_weight(self, digest: str | None, weight: float) -> None:
        """See `EngineClient.set_adapter_weight`."""
        self._inbox.append(_SetWeight(digest, weight))
        self._wake.set()

    def stats(self) -> EngineStats:
        stats = self._stats
        is_idle = not self._streams
        return replace(
            stats,
            is_healthy=not self._is_dead,
            is_draining=self._is_draining,
            seconds_since_progress=0.0 if is_idle else time.perf_counter() - self._last_progress_s,
        )

    @property
    def step_log(self) -> StepLog:
        return self._engine.step_log

    def _abort(self, request_id: str) -> None:
        self._inbox.append(_Abort(request_id))
        self._wake.set()

    def _lift_deadline(self, request_id: str) -> None:
        self._inbox.append(_LiftDeadline(request_id))
        self._wake.set()

    # -- the loop's side of the outbox

    def _deliver(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            if output.finish_reason is not None:
                del self._streams[output.request_id]
                self._drain_rate.count()
            stream.push(output)
        if not self._streams:
            assert self._idle is not None
            self._idle.set()

    def _die(self) -> None:
        self._is_dead = True
        # Requests that reached the inbox after the engine had failed have had no answer yet.
        error = "the engine failed"
        self._deliver(
            [
                TokenOutput(request_id, (), finish_reason=FinishReason.ERROR, error=error)
                for request_id in self._streams
            ]
        )
        if self._on_death is not None:
            self._on_death()

    # -- the engine's thread

    def _run(self) -> None:
        failures = 0
        try:
            while True:
                outputs = self._drain_inbox()
                if self._engine.has_work:
                    try:
                        outputs += self._engine.step()
                        failures = 0
                    except StepFailed as exc:
                        logger.exception("step failed", failures=failures + 1)
                        outputs += exc.outputs
                        failures += 1
                        if failures == MAX_CONSECUTIVE_FAILURES:
                            raise
                self._publish(outputs)
                if self._is_stopping and not self._inbox and not self._engine.has_work:
                    return
                if not self._engine.has_work and not self._inbox:
                    self._wake.wait()
                    self._wake.clear()
        except Exception:
            # Nothing above this frame could handle it: say so loudly and end every request.
            logger.exception("engine failed")
            self._publish(self._engine.fail_all("the engine failed"))
            self._call_loop(self._die)

    def _drain_inbox(self) -> list[TokenOutput]:
        outputs = []
        while self._inbox:
            message = self._inbox.popleft()
            output = None
            if isinstance(message, _Add):
                output = self._engine.add(message.request)
            elif isinstance(message, _Abort):
                output = self._engine.abort(message.request_id)
            elif isinstance(message, _LiftDeadline):
                self._engine.lift_deadline(message.request_id)
            elif isinstance(message, _EndAll):
                outputs += self._engine.abort_all()
            elif isinstance(message, _Offer):
                self._engine.offer_adapter(message.prepared)
            elif isinstance(message, _SetWeight):
                self._engine.scheduler.set_weight(message.digest, message.weight)
            else:
                self._engine.withdraw_adapter(message.digest)
            if output is not None:
                outputs.append(output)
        return outputs

    def _publish(self, outputs: list[TokenOutput]) -> None:
        self._last_progress_s = time.perf_counter()
        self._stats = self._gather_stats()
        if outputs:
            self._call_loop(self._deliver, outputs)

    def _call_loop(self, callback: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():  # a loop that is gone has no readers left
            self._loop.call_soon_threadsafe(callback, *args)

    def _gather_stats(self) -> EngineStats:
        engine, scheduler = self._engine, self._engine.scheduler
        residency = engine.residency
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_used_blocks=scheduler.pool.num_used,
            num_cached_blocks=scheduler.pool.num_cached,
            num_adapter_pins=residency.num_pins,
            num_preemptions=scheduler.counters.num_preemptions,
            num_steps=engine.num_steps,
            prompt_tokens=engine.prompt_tokens,
            generation_tokens=engine.generation_tokens,
            prefix_cache_queries=scheduler.counters.prefix_cache_queries,
            prefix_cache_hits=scheduler.counters.prefix_cache_hits,
            num_drafts=scheduler.counters.num_drafts,
            num_draft_tokens=scheduler.counters.num_draft_tokens,
            num_accepted_tokens=scheduler.counters.num_accepted_tokens,
            corrupted_requests=engine.corrupted_requests,
            adapter_hits=residency.counters.hits,
            adapter_attaches=residency.counters.attaches,
            adapter_evictions=residency.counters.evictions,
            resident_adapters=residency.resident_digests,
            resident_adapter_bytes=residency.resident_bytes,
            running_adapters=_present(s.request.adapter for s in scheduler.running),
            waiting_adapters=_present(s.request.adapter for s in scheduler.waiting),
        )


def _present(digests: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(digest for digest in digests if digest is not None))


class _DrainRate:
    """How fast sequences end, to tell a refused client when to come back."""

    MIN_S, MAX_S = 1.0, 30.0

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=64)

    def count(self) -> None:
        self._ends.append(time.perf_counter())

    def seconds_until_free(self, num_sequences: int) -> float:
        if len(self._ends) < 2:
            return self.MIN_S
        per_sequence = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return min(self.MAX_S, max(self.MIN_S, num_sequences * per_sequence))
