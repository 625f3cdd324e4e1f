"""A server's figures, read from Prometheus's text format."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

import lorry
from lorry.server_metrics import parse_metrics
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply

EXPOSITION = r"""
# HELP vllm:num_requests_running Sequences being computed.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 3
# a remark
# TYPE requests_total counter
requests_total{path="/a\"b\\c\nd",code="200"} 5 1700000000000
requests_total{code="500",} 2.5e0
no_type +Inf
# TYPE lag histogram
lag_bucket{le="0.1"} 2
lag_bucket{le="1"} 6
lag_bucket{le="+Inf"} 8 # {trace_id="x"} 0.4
lag_sum 12
lag_count 8
# EOF
"""


def test_families_have_kinds_labels_and_values() -> None:
    metrics = parse_metrics(EXPOSITION)

    running = metrics["vllm:num_requests_running"]
    assert (running.kind, running.help) == ("gauge", "Sequences being computed.")
    assert running.total == running.value() == running.value(model_name="m") == 3
    requests = metrics["requests"]
    assert requests is metrics["requests_total"]
    assert requests.total == 7.5
    assert requests.samples[0].labels == {"path": '/a"b\\c\nd', "code": "200"}
    assert requests.value(code="500") == 2.5
    assert math.isinf(metrics["no_type"].total)
    assert metrics["no_type"].kind == "untyped"
    assert set(metrics) == {"vllm:num_requests_running", "requests_total", "no_type", "lag"}


def test_a_histogram_has_buckets_a_mean_and_quantiles() -> None:
    (lag,) = parse_metrics(EXPOSITION)["lag"].histograms()

    assert lag.buckets == ((0.1, 2), (1.0, 6), (math.inf, 8))
    assert (lag.count, lag.sum, lag.mean) == (8, 12, 1.5)
    assert lag.quantile(0.25) == pytest.approx(0.1)
    assert lag.quantile(0.5) == pytest.approx(0.1 + 0.9 * 2 / 4)
    assert lag.quantile(1.0) == 1.0  # beyond the last bound nothing is known
    with pytest.raises(ValueError, match="q is 2"):
        lag.quantile(2)


def test_histograms_are_told_apart_by_their_labels() -> None:
    text = "# TYPE h histogram\n" + "".join(
        f'h_bucket{{adapter="{name}",le="+Inf"}} {count}\nh_count{{adapter="{name}"}} {count}\n'
        for name, count in (("a", 1), ("b", 2))
    )

    assert [(h.labels, h.count) for h in parse_metrics(text)["h"].histograms()] == [
        ({"adapter": "a"}, 1),
        ({"adapter": "b"}, 2),
    ]


def test_a_value_that_is_not_one_is_named() -> None:
    metrics = parse_metrics(EXPOSITION)

    with pytest.raises(LookupError, match="2 samples of requests_total have no labels; there are"):
        metrics["requests"].value()
    with pytest.raises(LookupError, match="0 samples of requests_total have code='404'"):
        metrics["requests"].value(code="404")
    with pytest.raises(KeyError, match="nowhere"):
        metrics["nowhere"]


@pytest.mark.parametrize(
    "line", ["a{b=1} 2", 'a{b="1" 2', "a", "a x", "a 1 2 3", '{b="1"} 2', 'a{="1"} 2']
)
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(lorry.StreamProtocolError, match="line 2 of the metrics"):
        parse_metrics(f"fine 1\n{line}\n")


@given(
    labels=st.lists(st.text(), min_size=1, max_size=4, unique=True),
    value=st.floats(allow_nan=False),
)
def test_what_prometheus_writes_is_read(labels: list[str], value: float) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("g", "Help with \\ and\nlines.", ["label"], registry=registry)
    counter = Counter("c", "A counter.", registry=registry)
    histogram = PrometheusHistogram("h", "A histogram.", buckets=(0.5, 2), registry=registry)
    for label in labels:
        gauge.labels(label).set(value)
    counter.inc(2)
    histogram.observe(1)

    for text in (generate_latest(registry), openmetrics.generate_latest(registry)):
        metrics = parse_metrics(text.decode())

        assert [sample.labels["label"] for sample in metrics["g"].samples] == labels
        assert {sample.value for sample in metrics["g"].samples} == {value}
        assert metrics["g"].help == "Help with \\ and\nlines."
        assert metrics["c"].total == 2
        assert metrics["h"].histograms()[0].buckets == ((0.5, 0), (2, 1), (math.inf, 1))


async def test_metrics_are_asked_of_the_server() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        assert request.path == "/metrics"
        await reply.plain(200, EXPOSITION.encode(), content_type="text/plain; version=0.0.4")

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        metrics = await client.metrics()

    assert metrics["vllm:num_requests_running"].total == 3
    assert repr(metrics) == "ServerMetrics(4 metrics)"
