"""Spans and metrics of a client, by the names of the GenAI conventions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import lorry
import lorry.otel
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    chat_answer,
    completion,
    usage_chunk,
)

SECRET = "the launch code is 0000"


class Recorder:
    """An SDK that keeps what is exported."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider(metric_readers=[self._reader])

    def instrument(self, client: lorry.AsyncClient, **options: Any) -> None:
        lorry.otel.instrument(
            client, tracer_provider=self.tracers, meter_provider=self.meters, **options
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.spans
        return span

    def metrics(self) -> dict[str, list[HistogramDataPoint]]:
        data = self._reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.meters.shutdown()


async def answer(request: ReceivedRequest, reply: Reply) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    if request.path.endswith("/chat/completions"):
        await reply.json(200, chat_answer("fine", usage=usage))
    elif request.json.get("stream"):
        await reply.start_stream()
        for word in ("a", "b", "c"):
            await reply.events(completion(word, token_ids=[1]))
        await reply.events(completion("", finish_reason="stop"), usage_chunk(5, 3), "[DONE]")
        await reply.end_stream()
    else:
        await reply.json(200, completion("ok", finish_reason="stop", usage=usage))


async def test_a_generation_is_a_client_span_with_the_conventions_attributes(
    recorder: Recorder,
) -> None:
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        await client.generate(
            SECRET, adapter="pirate", max_tokens=7, temperature=0.5, stop="x", request_id="id-1"
        )

    span = recorder.span
    assert (span.name, span.kind) == ("text_completion pirate", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "lorry",
        "gen_ai.request.model": "pirate",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ("x",),
        "gen_ai.response.model": "fake",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "lorry.request.id": "id-1",
    }


async def test_a_generation_of_the_base_model_names_no_model_that_was_asked_for(
    recorder: Recorder,
) -> None:
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        await client.chat([{"role": "user", "content": SECRET}])

    assert recorder.span.name == "chat"
    assert "gen_ai.request.model" not in (recorder.span.attributes or {})


async def test_the_server_gets_the_context_of_the_span(recorder: Recorder) -> None:
    async def flaky(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 1:
            await reply.json(503, {"error": "full"})
        else:
            await answer(request, reply)

    retry = lorry.RetryPolicy(base_s=0.0)
    async with FakeLLMServer(flaky) as server, lorry.AsyncClient(server.url, retry=retry) as client:
        recorder.instrument(client)
        with recorder.tracers.get_tracer("t").start_as_current_span("outer") as outer:
            await client.generate("Hi")
            await client.stream("Hi").final()

    spans = [span for span in recorder.spans if span.name == "text_completion"]
    assert all(
        span.parent.span_id == outer.get_span_context().span_id for span in spans if span.parent
    )
    sent = [request.headers["traceparent"].split("-") for request in server.requests]
    expected = [span.context for span in (spans[0], spans[0], spans[1]) if span.context]
    assert [(part[1], part[2]) for part in sent] == [
        (f"{context.trace_id:032x}", f"{context.span_id:016x}") for context in expected
    ]
    assert (spans[0].attributes or {})["http.request.resend_count"] == 1


async def test_a_stream_has_its_times_too(recorder: Recorder) -> None:
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        await client.stream("Hi", adapter="pirate").final()

    attributes = recorder.span.attributes or {}
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["gen_ai.usage.output_tokens"] == 3
    metrics = recorder.metrics()
    (first,) = metrics["gen_ai.client.operation.time_to_first_chunk"]
    assert first.count == 1
    assert first.sum == attributes["gen_ai.response.time_to_first_chunk"]
    assert first.explicit_bounds[:3] == (0.01, 0.02, 0.04)
    chunks = metrics.get("gen_ai.client.operation.time_per_output_chunk", [])
    assert sum(point.count for point in chunks) <= 2  # fewer where one read brought several


async def test_durations_and_tokens_are_measured(recorder: Recorder) -> None:
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        for _ in range(3):
            await client.generate("Hi", adapter="pirate")

    metrics = recorder.metrics()
    (duration,) = metrics["gen_ai.client.operation.duration"]
    assert duration.count == 3
    assert dict(duration.attributes or {}) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "lorry",
        "gen_ai.request.model": "pirate",
        "gen_ai.response.model": "fake",
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    tokens = {
        (point.attributes or {})["gen_ai.token.type"]: point.sum
        for point in metrics["gen_ai.client.token.usage"]
    }
    assert tokens == {"input": 15, "output": 6}
    assert "gen_ai.client.operation.time_to_first_chunk" not in metrics


@pytest.mark.parametrize("token_times", [False, True], ids=["whole", "streamed"])
async def test_a_failure_is_named_on_span_and_metric(recorder: Recorder, token_times: bool) -> None:
    async def fail(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(400, {"error": {"message": f"cannot read {SECRET}"}})

    async with FakeLLMServer(fail) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        with pytest.raises(lorry.BadRequest):
            await client.generate(SECRET, token_times=token_times)

    span = recorder.span
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "lorry.errors.BadRequest"
    (duration,) = recorder.metrics()["gen_ai.client.operation.duration"]
    assert (duration.attributes or {})["error.type"] == "lorry.errors.BadRequest"
    assert SECRET not in span.to_json()


async def test_a_stream_that_is_left_is_recorded_with_what_came(recorder: Recorder) -> None:
    async def stall(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a", token_ids=[1]))
        await reply.client_left()

    async with FakeLLMServer(stall) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        async with client.stream("Hi") as stream:
            await anext(stream)

    assert (recorder.span.attributes or {})["gen_ai.usage.output_tokens"] == 1
    assert recorder.span.status.status_code is StatusCode.UNSET


async def test_a_stream_that_is_forgotten_is_recorded_with_what_came(recorder: Recorder) -> None:
    async def stall(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a", token_ids=[1]))
        await reply.client_left()

    async with FakeLLMServer(stall) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        forgotten = [client.stream("Hi")]
        await anext(forgotten[0])
        with pytest.warns(ResourceWarning, match="not closed"):
            forgotten.clear()

    attributes = recorder.span.attributes or {}
    assert attributes["gen_ai.usage.output_tokens"] == 1
    assert attributes["error.type"] == "lorry.errors.StreamCancelled"
    assert recorder.span.status.status_code is StatusCode.UNSET


async def test_a_stream_that_was_never_sent_leaves_no_span(recorder: Recorder) -> None:
    async with lorry.AsyncClient("http://nowhere.invalid") as client:
        recorder.instrument(client)
        await client.stream("Hi").aclose()

    assert recorder.spans == ()


async def test_prompts_and_texts_are_recorded_only_when_asked_for(recorder: Recorder) -> None:
    other = Recorder()
    async with FakeLLMServer(answer) as server:
        async with lorry.AsyncClient(server.url) as client:
            recorder.instrument(client)
            await client.generate(SECRET)
            await client.stream(SECRET).final()
        async with lorry.AsyncClient(server.url) as client:
            other.instrument(client, capture_content=True)
            await client.generate(SECRET)
            await client.generate([1, 2, 3])
            await client.chat([{"role": "user", "content": SECRET}])

    assert not any(SECRET in span.to_json() for span in recorder.spans)
    text, ids, chat = (span.attributes or {} for span in other.spans)
    prompt = [{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]
    assert json.loads(str(text["gen_ai.input.messages"])) == prompt
    assert json.loads(str(chat["gen_ai.input.messages"])) == prompt
    assert json.loads(str(text["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "ok"}],
            "finish_reason": "stop",
        }
    ]
    assert "gen_ai.input.messages" not in ids


async def test_no_key_is_on_a_span(recorder: Recorder) -> None:
    async with (
        FakeLLMServer(answer) as server,
        lorry.AsyncClient(server.url, api_key="sk-very-secret") as client,
    ):
        recorder.instrument(client, capture_content=True)
        await client.generate("Hi")

    assert "sk-very-secret" not in recorder.span.to_json()


async def test_a_client_is_instrumented_once_until_it_is_not(recorder: Recorder) -> None:
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        with pytest.raises(lorry.ConfigError, match="instrumented already"):
            recorder.instrument(client)
        lorry.otel.uninstrument(client)
        await client.generate("Hi")

    assert recorder.spans == ()
    assert "traceparent" not in server.requests[0].headers


async def test_a_view_of_one_server_is_recorded_with_its_client(recorder: Recorder) -> None:
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        await client.at(server.url).generate("Hi")

    assert len(recorder.spans) == 1


async def test_embeddings_are_spans_too(recorder: Recorder) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        data = [{"index": 0, "embedding": [1.0, 2.0]}]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        await reply.json(200, {"data": data, "model": "vectors", "usage": usage})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client, capture_content=True)
        await client.embeddings(SECRET, adapter="pirate", request_id="id-1")

    span = recorder.span
    assert span.name == "embeddings pirate"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "lorry",
        "gen_ai.request.model": "pirate",
        "gen_ai.response.model": "vectors",
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.embeddings.dimension.count": 2,
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "lorry.request.id": "id-1",
    }
    (tokens,) = recorder.metrics()["gen_ai.client.token.usage"]
    assert (tokens.attributes or {})["gen_ai.token.type"] == "input"
    assert "traceparent" in server.requests[0].headers


async def test_classes_are_spans_too(recorder: Recorder) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.path == "/classify_batch":
            await reply.json(200, [[]])
            return
        data = [{"index": 0, "label": "good", "probs": [0.9, 0.1]}]
        await reply.json(200, {"data": data, "model": "mood", "usage": {"prompt_tokens": 4}})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client, capture_content=True)
        await client.classify(SECRET, adapter="pirate", request_id="id-1")
        await client.classify(SECRET, dialect="lorax")

    by_vllm, by_lorax = recorder.spans
    assert (by_vllm.name, by_lorax.name) == ("classify pirate", "classify")
    assert dict(by_vllm.attributes or {}) == {
        "gen_ai.operation.name": "classify",
        "gen_ai.provider.name": "lorry",
        "gen_ai.request.model": "pirate",
        "gen_ai.response.model": "mood",
        "gen_ai.usage.input_tokens": 4,
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "lorry.request.id": "id-1",
    }
    assert all("traceparent" in request.headers for request in server.requests)


async def test_classes_that_fail_are_named_on_their_span(recorder: Recorder) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, {"data": []})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        with pytest.raises(lorry.StreamProtocolError, match="0 labels came for 1 inputs"):
            await client.classify("a")

    assert (recorder.span.attributes or {})["error.type"] == "lorry.errors.StreamProtocolError"


async def test_embeddings_that_fail_are_named_on_their_span(recorder: Recorder) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, {"data": []})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        recorder.instrument(client)
        with pytest.raises(lorry.StreamProtocolError):
            await client.embeddings("a")

    assert (recorder.span.attributes or {})["error.type"] == "lorry.errors.StreamProtocolError"
