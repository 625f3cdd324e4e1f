"""What is counted by adapter and of the library, with a number of series that is bounded.

The label `adapter` has names of loaded adapters, never what a client wrote: at most `MAX_NAMES` of
them, and the rest together as "other". A name that is unloaded makes room for another when room is
short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from lorry_server.adapters.lease import AdapterLease
from lorry_server.adapters.library import AdapterLibrary
from lorry_server.engine.client import EngineClient

MAX_NAMES = 100
BASE = ""  # the label of requests for the base model
OTHER = "other"
COMPOSED = "(composed)"  # no name begins like this
TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class AdapterMetrics:
    """Series by adapter. `is_loaded` says whether a name still exists."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        model_name: str,
        is_loaded: Callable[[str], bool],
        max_names: int = MAX_NAMES,
    ) -> None:
        self._model_name = model_name
        self._is_loaded = is_loaded
        self._max_names = max_names
        self._series: dict[str, AdapterSeries] = {}
        self._named: set[str] = set()
        labels = ("model_name", "adapter")
        self._requests = Counter(
            "lorry_adapter_requests",
            "Sequences admitted, by adapter; the base model's have an empty name.",
            labels,
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "lorry_adapter_prompt_tokens",
            "Prompt tokens of admitted sequences, by adapter.",
            labels,
            registry=registry,
        )
        self._generation_tokens = Counter(
            "lorry_adapter_generation_tokens",
            "Tokens generated, by adapter; the base model's have an empty name.",
            labels,
            registry=registry,
        )
        self._ttft = Histogram(
            "lorry_adapter_time_to_first_token_seconds",
            "Arrival to first token, by adapter; waiting for the adapter's load is part of it.",
            labels,
            buckets=TTFT_BUCKETS_S,
            registry=registry,
        )

    def of(self, lease: AdapterLease | None) -> AdapterSeries:
        """Return the series of what a request runs on."""
        label = self._label(lease)
        series = self._series.get(label)
        if series is None:
            values = (self._model_name, label)
            series = self._series[label] = AdapterSeries(
                requests=self._requests.labels(*values),
                prompt_tokens=self._prompt_tokens.labels(*values),
                generation_tokens=self._generation_tokens.labels(*values),
                ttft=self._ttft.labels(*values),
            )
        return series

    def _label(self, lease: AdapterLease | None) -> str:
        if lease is None:
            return BASE
        name = lease.name
        if name is None:
            return COMPOSED
        if name in self._named:
            return name
        if len(self._named) >= self._max_names:
            self._remove_unloaded()
        if len(self._named) >= self._max_names:
            return OTHER
        self._named.add(name)
        return name

    def _remove_unloaded(self) -> None:
        for name in [name for name in self._named if not self._is_loaded(name)]:
            self._named.discard(name)
            if name == OTHER:  # an adapter of this name shares its series with the rest
                continue
            self._series.pop(name, None)
            for metric in (
                self._requests,
                self._prompt_tokens,
                self._generation_tokens,
                self._ttft,
            ):
                metric.remove(self._model_name, name)


class AdapterSeries:
    """The series of one label."""

    def __init__(
        self,
        *,
        requests: Counter,
        prompt_tokens: Counter,
        generation_tokens: Counter,
        ttft: Histogram,
    ) -> None:
        self._requests = requests
        self._prompt_tokens = prompt_tokens
        self._generation_tokens = generation_tokens
        self._ttft = ttft

    def admitted(self, *, num_prompt_tokens: int) -> None:
        self._requests.inc()
        self._prompt_tokens.inc(num_prompt_tokens)

    def began(self, ttft_s: float) -> None:
        self._ttft.observe(ttft_s)

    def generated(self, num_tokens: int) -> None:
        self._generation_tokens.inc(num_tokens)


class LibraryCollector(Collector):
    """Reads the library's figures, and the engine's about adapters, when a scrape asks for them."""

    def __init__(self, library: AdapterLibrary, engine: EngineClient, *, model_name: str) -> None:
        self._library = library
        self._engine = engine
        self._model_name = model_name

    def describe(self) -> Iterator[Metric]:
        """Nothing: so that registering does not ask an engine that has not started."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        library, stats = self._library, self._engine.stats()
        counters, shelf = library.counters, library.shelf
        yield self._counter(
            "lorry_adapter_loads",
            "Loads that ended, by how.",
            "result",
            {"loaded": counters.num_loaded, "failed": counters.num_failed},
        )
        yield self._counter(
            "lorry_adapter_hits",
            "Requests for adapters, by the fastest tier that had the adapter.",
            "tier",
            counters.hits,
        )
        yield self._counter(
            "lorry_adapter_evictions",
            "Adapters that made room for others, by tier.",
            "tier",
            {"device": stats.adapter_evictions, "host": shelf.num_evictions},
        )
        yield self._load_seconds()
        bytes_of = GaugeMetricFamily(
            "lorry_adapter_bytes", "Memory of adapters, by tier.", labels=("model_name", "tier")
        )
        bytes_of.add_metric((self._model_name, "device"), stats.resident_adapter_bytes)
        bytes_of.add_metric((self._model_name, "host"), shelf.num_bytes)
        yield bytes_of
        leases = GaugeMetricFamily(
            "lorry_adapter_leases", "Requests that run on an adapter.", labels=("model_name",)
        )
        leases.add_metric((self._model_name,), library.num_leases)
        yield leases
        yield self._in_use(stats.running_adapters, stats.waiting_adapters)

    def _counter(
        self, name: str, documentation: str, label: str, values: Mapping[Any, int]
    ) -> CounterMetricFamily:
        family = CounterMetricFamily(name, documentation, labels=("model_name", label))
        for key, value in values.items():
            family.add_metric((self._model_name, key), value)
        return family

    def _load_seconds(self) -> SummaryMetricFamily:
        counters = self._library.counters
        family = SummaryMetricFamily(
            "lorry_adapter_load_seconds",
            "Time of loads, by phase; waiting for a turn is part of none.",
            labels=("model_name", "phase"),
        )
        for phase, seconds in counters.seconds.items():
            family.add_metric((self._model_name, phase), counters.num_loaded, seconds)
        return family

    def _in_use(self, running: Sequence[str], waiting: Sequence[str]) -> GaugeMetricFamily:
        """The one series that routers read to find where an adapter is in use.

        Requests that wait for a load are waiting ones. Its value is the time of this reading, so
        that the newest of several is known.
        """
        family = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Adapters in use, in labels; the value is the Unix time of the reading.",
            labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
        )
        waiting_names = [*self._names(waiting), *self._library.awaited_names()]
        labels = (
            str(self._library.num_ready),
            ",".join(self._names(running)),
            ",".join(dict.fromkeys(waiting_names)),
        )
        family.add_metric(labels, time.time())
        return family

    def _names(self, digests: Sequence[str]) -> list[str]:
        """Names for digests; of a version without one, the beginning of its digest."""
        names = [self._library.names_of(digest) or (digest[:8],) for digest in digests]
        return list(dict.fromkeys(name for group in names for name in group))
