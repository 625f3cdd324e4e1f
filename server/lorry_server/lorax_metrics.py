"""LoRAX's names for what is counted under vLLM's, so that its dashboards read this server.

Nothing is counted twice: the values are read when they are asked for. LoRAX counts requests where
this server counts sequences, of which a request has one unless it says otherwise. Its names for
what this server does not have, or measures otherwise, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric, UntypedMetricFamily
from prometheus_client.registry import Collector

from lorry_server.engine.client import EngineClient

# Of the reasons why a sequence ended, those that are failures, in LoRAX's words.
FAILURES = {"error": "generation", "abort": "dropped"}
REFUSED = "overloaded"


class LoraxCollector(Collector):
    """`histograms` are by the names that LoRAX has for them; the counters have a label each."""

    def __init__(
        self,
        engine: EngineClient,
        *,
        model_name: str,
        histograms: Mapping[str, Histogram],
        ends: Counter,
        refusals: Counter,
    ) -> None:
        self._engine = engine
        self._model_name = model_name
        self._histograms = histograms
        self._ends = ends
        self._refusals = refusals

    def describe(self) -> Iterator[Metric]:
        """Nothing: so that registering does not ask an engine that has not started."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for name, documentation, number in (
            ("lorax_queue_length", "Sequences in the queue.", stats.num_waiting),
            ("lorax_batch_current_size", "Sequences being computed.", stats.num_running),
        ):
            gauge = GaugeMetricFamily(name, documentation, labels=("model_name",))
            gauge.add_metric((self._model_name,), number)
            yield gauge
        yield from self._counters()
        for name, histogram in self._histograms.items():
            yield renamed(histogram, name)

    def _counters(self) -> Iterator[Metric]:
        ends = values_by_label(self._ends, "finished_reason")
        refused = sum(values_by_label(self._refusals, "reason").values())
        failed = sum(ends.get(reason, 0.0) for reason in FAILURES)
        numbers = {
            "lorax_request_count": (
                "Sequences that ended or were refused.",
                sum(ends.values()) + refused,
            ),
            "lorax_request_success": (
                "Sequences with a whole answer.",
                sum(ends.values()) - failed,
            ),
        }
        # LoRAX's counters have no suffix, which the format's own type of counter would add.
        for name, (documentation, number) in numbers.items():
            family = UntypedMetricFamily(name, documentation, labels=("model_name",))
            family.add_metric((self._model_name,), number)
            yield family
        failures = UntypedMetricFamily(
            "lorax_request_failure", "Those without, by why.", labels=("model_name", "err")
        )
        failures.add_metric((self._model_name, REFUSED), refused)
        for reason, word in FAILURES.items():
            failures.add_metric((self._model_name, word), ends.get(reason, 0.0))
        yield failures


def values_by_label(counter: Counter, label: str) -> dict[str, float]:
    """Return the value of each series of `counter` by its `label`."""
    return {
        sample.labels[label]: sample.value
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def renamed(histogram: Histogram, name: str) -> Metric:
    """Return what `histogram` has counted as a metric with another name."""
    (counted,) = histogram.collect()
    metric = Metric(name, counted.documentation, counted.type)
    for sample in counted.samples:
        if sample.name.endswith("_created"):
            continue
        suffix = sample.name.removeprefix(counted.name)
        metric.add_sample(name + suffix, sample.labels, sample.value)
    return metric
