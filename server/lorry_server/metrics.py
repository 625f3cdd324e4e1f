"""What the server counts, in Prometheus' text format under vLLM's names.

Dashboards and routers written for vLLM read these names as they stand. Gauges and counters of the
engine are read from it at each scrape; what only the HTTP side sees is counted here. No label
holds what a client wrote (`adapter_metrics` for those that hold names).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lorry_server.adapter_metrics import AdapterMetrics, AdapterSeries, LibraryCollector
from lorry_server.adapters.lease import AdapterLease
from lorry_server.adapters.library import AdapterLibrary
from lorry_server.engine.client import EngineClient
from lorry_server.engine.outputs import SequenceTimings
from lorry_server.engine.request import Request
from lorry_server.engine.step_log import TOKEN_BUCKETS
from lorry_server.errors import PHASES, CapacityError, DrainingError
from lorry_server.lorax_metrics import LoraxCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
REQUEST_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
LENGTH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)

LAG_BUCKETS_S = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1)


class Metrics:
    """The server's registry. `model_name` labels every series, as vLLM does."""

    def __init__(self, engine: EngineClient, library: AdapterLibrary, *, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine, model_name=model_name))
        self.registry.register(LibraryCollector(library, engine, model_name=model_name))
        self.adapters = AdapterMetrics(
            self.registry,
            model_name=model_name,
            is_loaded=lambda name: library.find(name) is not None,
        )
        self._model_name = model_name
        self._lorax_histograms: dict[str, Histogram] = {}
        self.ttft = self._histogram(
            "vllm:time_to_first_token_seconds", "Arrival to first token.", LATENCY_BUCKETS_S
        )
        self.itl = self._histogram(
            "vllm:inter_token_latency_seconds", "Gap between outputs.", TOKEN_BUCKETS_S
        )
        self.tpot = self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time per token after the first.",
            TOKEN_BUCKETS_S,
        )
        self.e2e = self._histogram(
            "vllm:e2e_request_latency_seconds",
            "Arrival to last token.",
            REQUEST_BUCKETS_S,
            lorax="lorax_request_duration",
        )
        self.queue = self._histogram(
            "vllm:request_queue_time_seconds",
            "Arrival to first step.",
            REQUEST_BUCKETS_S,
            lorax="lorax_request_queue_duration",
        )
        self.prefill = self._histogram(
            "vllm:request_prefill_time_seconds", "First step to first token.", REQUEST_BUCKETS_S
        )
        self.decode = self._histogram(
            "vllm:request_decode_time_seconds", "First token to last.", REQUEST_BUCKETS_S
        )
        self.inference = self._histogram(
            "vllm:request_inference_time_seconds",
            "First step to last token.",
            REQUEST_BUCKETS_S,
            lorax="lorax_request_inference_duration",
        )
        self.prompt_length = self._histogram(
            "vllm:request_prompt_tokens",
            "Prompt tokens of a sequence.",
            LENGTH_BUCKETS,
            lorax="lorax_request_input_length",
        )
        self.completion_length = self._histogram(
            "vllm:request_generation_tokens",
            "Generated tokens of a sequence.",
            LENGTH_BUCKETS,
            lorax="lorax_request_generated_tokens",
        )
        self.loop_lag = self._histogram(
            "lorry_event_loop_lag_seconds", "How late the event loop wakes a task.", LAG_BUCKETS_S
        )
        self.successes = Counter(
            "vllm:request_success",
            "Sequences that ended, by why.",
            ("model_name", "finished_reason"),
            registry=self.registry,
        )
        self.rejections = Counter(
            "vllm:admission_rejections",
            "Requests that were not admitted, by why.",
            ("model_name", "reason"),
            registry=self.registry,
        )
        self.past_deadlines = Counter(
            "lorry_requests_past_deadline",
            "Requests that were ended because their client's time was over, by how far they were.",
            ("model_name", "phase"),
            registry=self.registry,
        )
        self.repeated = Counter(
            "lorry_idempotent_requests",
            "Requests that repeated an idempotency key, by how they were answered.",
            ("model_name", "answer"),
            registry=self.registry,
        )
        self.registry.register(
            LoraxCollector(
                engine,
                model_name=model_name,
                histograms=self._lorax_histograms,
                ends=self.successes,
                refusals=self.rejections,
            )
        )
        # Series that exist from the start can be alerted on before they first count.
        for reason in ("stop", "length", "abort", "error"):
            self.successes.labels(model_name, reason)
        for reason in ("queue_full", "draining"):
            self.rejections.labels(model_name, reason)
        for phase in PHASES:
            self.past_deadlines.labels(model_name, phase)
        for answer in ("joined", "kept", "refused"):
            self.repeated.labels(model_name, answer)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format, `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def rejected(self, error: CapacityError) -> None:
        reason = "draining" if isinstance(error, DrainingError) else "queue_full"
        self.rejections.labels(self._model_name, reason).inc()

    def past_deadline(self, phase: str) -> None:
        """Count a request whose time is over; `phase` is that of `DeadlineExceededError`."""
        self.past_deadlines.labels(self._model_name, phase).inc()

    def repeated_key(self, answer: str) -> None:
        """Count a repeated key: answered with another's answer, `joined` or `kept`, or `refused`."""
        self.repeated.labels(self._model_name, answer).inc()

    def sequence(self, request: Request, *, lease: AdapterLease | None) -> SequenceMetrics:
        """Count an admitted sequence, on the adapter of `lease` or the base model."""
        adapter = self.adapters.of(lease)
        adapter.admitted(num_prompt_tokens=len(request.prompt_token_ids))
        return SequenceMetrics(self, request, adapter=adapter)

    def finished(self, reason: str) -> None:
        self.successes.labels(self._model_name, reason).inc()

    def _histogram(
        self, name: str, documentation: str, buckets: Sequence[float], *, lorax: str | None = None
    ) -> Histogram:
        """`lorax` is LoRAX's name for the same."""
        histogram = Histogram(
            name, documentation, ("model_name",), buckets=buckets, registry=self.registry
        )
        if lorax is not None:
            self._lorax_histograms[lorax] = histogram
        labelled: Histogram = histogram.labels(self._model_name)
        return labelled


class SequenceMetrics:
    """Counts one sequence while its outputs come. Times start at the request's arrival."""

    def __init__(self, metrics: Metrics, request: Request, *, adapter: AdapterSeries) -> None:
        self._metrics = metrics
        self._arrival_s = request.arrival_s
        self._num_prompt_tokens = len(request.prompt_token_ids)
        self._adapter = adapter
        self._num_tokens = 0
        self._first_s = 0.0
        self._last_s = 0.0

    def received(self, num_tokens: int) -> None:
        """Count an output of `num_tokens` new tokens that has just come."""
        if num_tokens == 0:
            return
        now = time.perf_counter()
        if self._num_tokens == 0:
            self._first_s = now
            self._metrics.ttft.observe(now - self._arrival_s)
            self._adapter.began(now - self._arrival_s)
        else:
            self._metrics.itl.observe(now - self._last_s)
        self._last_s = now
        self._num_tokens += num_tokens
        self._adapter.generated(num_tokens)

    def finished(self, reason: str, timings: SequenceTimings | None) -> None:
        """Count the end of the sequence; `reason` is stop, length, abort or error."""
        metrics = self._metrics
        metrics.finished(reason)
        metrics.prompt_length.observe(self._num_prompt_tokens)
        metrics.completion_length.observe(self._num_tokens)
        metrics.e2e.observe(time.perf_counter() - self._arrival_s)
        if self._num_tokens > 1:
            metrics.tpot.observe((self._last_s - self._first_s) / (self._num_tokens - 1))
        if timings is not None:
            metrics.queue.observe(timings.queue_ms / 1000)
            metrics.prefill.observe(timings.prefill_ms / 1000)
            metrics.decode.observe(timings.decode_ms / 1000)
            metrics.inference.observe((timings.prefill_ms + timings.decode_ms) / 1000)

    def past_deadline(self, phase: str) -> None:
        """Count the end of the sequence, and of its request with it."""
        self._metrics.finished("abort")
        self._metrics.past_deadline(phase)

    def abandoned(self) -> None:
        """Count a sequence that nobody waits for any more."""
        self._metrics.finished("abort")


class EngineCollector(Collector):
    """Reads the engine's own figures when a scrape asks for them."""

    def __init__(self, engine: EngineClient, *, model_name: str) -> None:
        self._engine = engine
        self._model_name = model_name

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: so that registering does not ask an engine that has not started."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats, info = self._engine.stats(), self._engine.info
        usage = stats.num_used_blocks / info.num_blocks if info.num_blocks else 0.0
        gauges: dict[str, tuple[str, float]] = {
            "vllm:num_requests_running": ("Sequences being computed.", stats.num_running),
            "vllm:num_requests_waiting": ("Sequences in the queue.", stats.num_waiting),
            "vllm:kv_cache_usage_perc": ("Share of KV blocks in use, 0 to 1.", usage),
            "lorry_kv_cached_blocks": ("KV blocks kept for prefixes.", stats.num_cached_blocks),
            "lorry_adapter_pins": ("Sequences that hold an adapter.", stats.num_adapter_pins),
            "lorry_engine_healthy": ("1 while the engine works.", stats.is_healthy),
            "lorry_engine_draining": ("1 while it takes nothing new.", stats.is_draining),
            "lorry_engine_seconds_since_progress": (
                "Age of the last step while there is work.",
                stats.seconds_since_progress,
            ),
        }
        counters: dict[str, tuple[str, float]] = {
            "vllm:num_preemptions": ("Preemptions.", stats.num_preemptions),
            "vllm:prompt_tokens": ("Prompt tokens computed or found.", stats.prompt_tokens),
            "vllm:prompt_tokens_cached": ("Prompt tokens found.", stats.prefix_cache_hits),
            "vllm:generation_tokens": ("Tokens generated.", stats.generation_tokens),
            "vllm:prefix_cache_queries": ("Tokens looked up.", stats.prefix_cache_queries),
            "vllm:prefix_cache_hits": ("Tokens found.", stats.prefix_cache_hits),
            "vllm:spec_decode_num_drafts": ("Drafts checked.", stats.num_drafts),
            "vllm:spec_decode_num_draft_tokens": ("Tokens drafted.", stats.num_draft_tokens),
            "vllm:spec_decode_num_accepted_tokens": (
                "Draft tokens that spared a step.",
                stats.num_accepted_tokens,
            ),
            "vllm:corrupted_requests": ("Sequences with NaN.", stats.corrupted_requests),
            "lorry_engine_steps": ("Steps.", stats.num_steps),
        }
        for name, (documentation, value) in gauges.items():
            gauge = GaugeMetricFamily(name, documentation, labels=("model_name",))
            gauge.add_metric((self._model_name,), value)
            yield gauge
        for name, (documentation, value) in counters.items():
            counter = CounterMetricFamily(name, documentation, labels=("model_name",))
            counter.add_metric((self._model_name,), value)
            yield counter
        yield self._tokens_per_step()
        yield self._cache_config()

    def _tokens_per_step(self) -> HistogramMetricFamily:
        counted = self._engine.step_log.counts()
        bounds = [*(str(float(bound)) for bound in TOKEN_BUCKETS), "+Inf"]
        family = HistogramMetricFamily(
            "vllm:iteration_tokens_total", "Tokens computed in a step.", labels=("model_name",)
        )
        family.add_metric(
            (self._model_name,),
            list(zip(bounds, accumulate(counted.counts), strict=True)),
            sum_value=counted.num_tokens,
        )
        return family

    def _cache_config(self) -> GaugeMetricFamily:
        info = self._engine.info
        family = GaugeMetricFamily(
            "vllm:cache_config_info",
            "The KV cache, in labels.",
            labels=("model_name", "block_size", "num_gpu_blocks"),
        )
        family.add_metric((self._model_name, str(info.block_size), str(info.num_blocks)), 1.0)
        return family
