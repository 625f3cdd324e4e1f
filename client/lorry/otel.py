"""OpenTelemetry for a client: spans and metrics of what models are asked, trace context on the wire.

    import lorry.otel
    lorry.otel.instrument(client)

Names are those of the GenAI semantic conventions (open-telemetry/semantic-conventions-genai, status
"development"); what they call a chunk is what one read brought. Needs the extra `lorry[otel]`, and
an SDK that the program sets up. Prompts and texts are recorded only with `capture_content=True`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import msgspec
from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import Histogram, Meter, MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from lorry._version import __version__
from lorry.client import AsyncClient
from lorry.embeddings import Embeddings
from lorry.errors import ClientError, ConfigError, StreamCancelled
from lorry.generation import Generation
from lorry.options import CallOptions
from lorry.telemetry import Result
from lorry.timing import Timing
from lorry.types.chat import ChatMessage

PROVIDER = "lorry"
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/classify": "classify",
    "/classify_batch": "classify",
}
_SECONDS = [0.01 * 2**exponent for exponent in range(14)]
_TOKENS = [float(4**exponent) for exponent in range(14)]
# attributes of the request, by the option that they record
_REQUEST_ATTRIBUTES = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
}


def instrument(
    client: AsyncClient,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    capture_content: bool = False,
) -> None:
    """Record a client's generations, embeddings and classes from now on, and those of its views.

    The providers are the global ones if not given. `capture_content` puts prompts and texts of
    generations on the spans. Raises ConfigError for a client that is instrumented already.
    """
    session = client._session
    if session.telemetry is not None:
        raise ConfigError("the client is instrumented already")
    session.telemetry = OpenTelemetry(
        tracer=trace.get_tracer("lorry", __version__, tracer_provider),
        meter=metrics.get_meter("lorry", __version__, meter_provider),
        capture_content=capture_content,
    )


def uninstrument(client: AsyncClient) -> None:
    """Stop recording; harmless for a client that is not instrumented."""
    client._session.telemetry = None


class OpenTelemetry:
    """The `Telemetry` of one client."""

    def __init__(self, *, tracer: Tracer, meter: Meter, capture_content: bool) -> None:
        self._tracer = tracer
        self._instruments = _Instruments(meter)
        self._captures_content = capture_content

    def begin(self, path: str, prompt: Any, options: CallOptions, *, is_streamed: bool) -> CallSpan:
        shared: dict[str, Any] = {
            "gen_ai.operation.name": _OPERATIONS.get(path, path),
            "gen_ai.provider.name": PROVIDER,
        }
        if options.adapter is not None:
            shared["gen_ai.request.model"] = options.adapter
        span = self._tracer.start_span(
            " ".join(str(shared[name]) for name in _NAME_OF_SPAN if name in shared),
            kind=SpanKind.CLIENT,
            attributes=shared | _request_attributes(options, is_streamed=is_streamed),
        )
        if self._captures_content and span.is_recording():
            messages = _input_messages(prompt)
            if messages:
                span.set_attribute("gen_ai.input.messages", json.dumps(messages))
        return CallSpan(
            span,
            self._instruments,
            shared=shared,
            is_streamed=is_streamed,
            captures_content=self._captures_content,
        )

    def add_headers(self, headers: dict[str, str]) -> None:
        propagate.inject(headers)


class CallSpan:
    """The `Observation` of one call: its span, and the numbers when it has ended."""

    def __init__(
        self,
        span: Span,
        instruments: _Instruments,
        *,
        shared: Mapping[str, Any],
        is_streamed: bool,
        captures_content: bool,
    ) -> None:
        self._span = span
        self._instruments = instruments
        self._shared = dict(shared)
        self._is_streamed = is_streamed
        self._captures_content = captures_content
        self._started = time.perf_counter()

    def sending(self) -> AbstractContextManager[None]:
        return self._current()

    @contextmanager
    def _current(self) -> Iterator[None]:
        # `ended` records the failure, and only what of it holds no text
        with trace.use_span(
            self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        ):
            yield

    def ended(self, result: Result | None, error: BaseException | None) -> None:
        span, shared = self._span, self._shared
        endpoint = result.endpoint if result is not None else getattr(error, "endpoint", None)
        shared.update(_server_attributes(endpoint))
        if result is not None and result.model:
            shared["gen_ai.response.model"] = result.model
        if error is not None:
            shared["error.type"] = f"{type(error).__module__}.{type(error).__qualname__}"
            if not isinstance(error, StreamCancelled):
                # the message may quote the request
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        span.set_attributes(shared)
        timing = _timing_of(result, error)
        if timing is not None and len(timing.attempts) > 1:
            span.set_attribute("http.request.resend_count", len(timing.attempts) - 1)
        if result is not None:
            self._describe_result(result)
        self._record(result, timing)
        span.end()

    def _describe_result(self, result: Result) -> None:
        span = self._span
        span.set_attributes({k: v for k, v in _result_attributes(result).items() if v is not None})
        if not isinstance(result, Generation):
            return
        if self._captures_content and span.is_recording():
            message = {
                "role": "assistant",
                "parts": [{"type": "text", "content": result.text}],
                "finish_reason": result.finish_reason or "error",
            }
            span.set_attribute("gen_ai.output.messages", json.dumps([message]))

    def _record(self, result: Result | None, timing: Timing | None) -> None:
        instruments, shared = self._instruments, self._shared
        # histograms other than the duration's have no error among their attributes
        clean = {name: value for name, value in shared.items() if name != "error.type"}
        instruments.duration.record(time.perf_counter() - self._started, shared)
        if result is not None:
            attributes = _result_attributes(result)
            for kind in ("input", "output"):
                count = attributes.get(f"gen_ai.usage.{kind}_tokens")
                if count is not None:
                    instruments.tokens.record(count, {**clean, "gen_ai.token.type": kind})
        if not self._is_streamed or timing is None or timing.first_token_ns is None:
            return
        to_first_s = (timing.first_token_ns - timing.attempts[0].sent_ns) / 1e9
        self._span.set_attribute("gen_ai.response.time_to_first_chunk", to_first_s)
        instruments.to_first_chunk.record(to_first_s, clean)
        for before, after in pairwise(timing.token_ns or ()):
            if after > before:
                instruments.per_chunk.record((after - before) / 1e9, clean)


class _Instruments:
    """The four histograms, with the buckets that the conventions advise."""

    def __init__(self, meter: Meter) -> None:
        self.duration = _histogram(meter, "gen_ai.client.operation.duration", "s", _SECONDS)
        self.tokens = _histogram(meter, "gen_ai.client.token.usage", "{token}", _TOKENS)
        self.to_first_chunk = _histogram(
            meter, "gen_ai.client.operation.time_to_first_chunk", "s", _SECONDS
        )
        self.per_chunk = _histogram(
            meter, "gen_ai.client.operation.time_per_output_chunk", "s", _SECONDS
        )


_NAME_OF_SPAN = ("gen_ai.operation.name", "gen_ai.request.model")


def _histogram(meter: Meter, name: str, unit: str, buckets: Sequence[float]) -> Histogram:
    return meter.create_histogram(name, unit=unit, explicit_bucket_boundaries_advisory=buckets)


def _request_attributes(options: CallOptions, *, is_streamed: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        name: options.sampling[option]
        for option, name in _REQUEST_ATTRIBUTES.items()
        if option in options.sampling
    }
    if is_streamed:
        attributes["gen_ai.request.stream"] = True
    stop = options.sampling.get("stop")
    if stop is not None:
        attributes["gen_ai.request.stop_sequences"] = (
            [stop] if isinstance(stop, str) else list(stop)
        )
    return attributes


def _result_attributes(result: Result) -> dict[str, Any]:
    """What an answer says of itself; what it does not say is None."""
    if not isinstance(result, Generation):
        attributes: dict[str, Any] = {
            "lorry.request.id": result.request_id,
            "gen_ai.usage.input_tokens": result.prompt_tokens,
        }
        if isinstance(result, Embeddings):
            size = len(result[0]) if len(result) else None
            attributes["gen_ai.embeddings.dimension.count"] = size
        return attributes
    usage, reason = result.usage, result.finish_reason
    return {
        "lorry.request.id": result.request_id,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.response.finish_reasons": None if reason is None else [reason],
    }


def _server_attributes(endpoint: str | None) -> dict[str, Any]:
    if not endpoint:
        return {}
    parts = urlsplit(endpoint)
    default_port = 443 if parts.scheme == "https" else 80
    return {"server.address": parts.hostname or "", "server.port": parts.port or default_port}


def _timing_of(result: Result | None, error: BaseException | None) -> Timing | None:
    if result is not None:
        return result.timing
    return error.timing if isinstance(error, ClientError) else None


def _input_messages(prompt: Any) -> list[dict[str, Any]]:
    """A prompt as the conventions have it; token ids, and texts that nothing answers, are left out."""
    if isinstance(prompt, str):
        return [{"role": "user", "parts": [{"type": "text", "content": prompt}]}]
    messages = []
    for message in prompt:
        if not isinstance(message, (Mapping, ChatMessage)):
            return []
        plain = msgspec.to_builtins(message)
        messages.append(
            {
                "role": plain.get("role"),
                "parts": [{"type": "text", "content": plain.get("content")}],
            }
        )
    return messages
