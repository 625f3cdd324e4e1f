"""Async client of lorry: one base model, many adapters.

async with lorry.AsyncClient("http://127.0.0.1:8000") as client:
    generation = await client.generate("Hello", max_tokens=20, adapter="pirate")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lorry._version import __version__
from lorry.balancing import EndpointStats
from lorry.client import AsyncClient
from lorry.endpoints import Endpoint
from lorry.errors import (
    AdapterExists,
    AdapterInvalid,
    AdapterLoading,
    AdapterNotFound,
    BadRequest,
    ClientError,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ContextTooLong,
    DeadlineExceeded,
    Forbidden,
    HTTPStatusError,
    Overloaded,
    ReplayMismatch,
    RetriesExhausted,
    ServerError,
    ServerStreamError,
    StreamCancelled,
    StreamError,
    StreamProtocolError,
    StreamTruncated,
    Unauthorized,
)
from lorry.generation import Generation, ServerTiming, Token, Usage
from lorry.limits.base import Limiter, Permit
from lorry.limits.fixed import Limit
from lorry.middleware import CallNext, Middleware
from lorry.options import ChatOptions, GenerateOptions
from lorry.retry import RetryBudget, RetryPolicy
from lorry.stats import ClientStats
from lorry.stream import EventStream, TextStream, TokenStream
from lorry.stream_events import Finished, KeepAlive, Started
from lorry.sweep import sweep
from lorry.timeout import Timeout
from lorry.timing import AttemptTiming, Timing
from lorry.tool_calls import ToolCall
from lorry.transports.base import Transport, WireRequest, WireResponse

if TYPE_CHECKING:
    from lorry.adapter_report import AdapterCards
    from lorry.batch.arrivals import Arrivals, Constant, Gamma, Poisson, Trace
    from lorry.batch.progress import Progress
    from lorry.batch.request import Request
    from lorry.batch.run import BatchRun
    from lorry.batch.settings import BatchOptions
    from lorry.batch.stats import BatchStats
    from lorry.blocking.client import Client
    from lorry.classify import Classification, Entity
    from lorry.embeddings import Embeddings
    from lorry.health import Health
    from lorry.limits.adaptive import AdaptiveLimit, LimitChange
    from lorry.limits.rate import RateLimit
    from lorry.raw import RawResponse, RawStream
    from lorry.server_metrics import ServerMetrics
    from lorry.sweep.compare import Comparison, compare
    from lorry.sweep.point import SweepPoint
    from lorry.sweep.result import SweepResult
    from lorry.trace_events import chrome_trace
    from lorry.transports.asgi import ASGITransport
    from lorry.transports.faults import FaultTransport
    from lorry.transports.record import RecordingTransport
    from lorry.transports.replay import ReplayTransport

# imported when they are first asked for: whoever makes single calls does not wait for them
_LATE = {
    "AdapterCards": "lorry.adapter_report",
    "Health": "lorry.health",
    "RawResponse": "lorry.raw",
    "RawStream": "lorry.raw",
    "ASGITransport": "lorry.transports.asgi",
    "FaultTransport": "lorry.transports.faults",
    "RecordingTransport": "lorry.transports.record",
    "ReplayTransport": "lorry.transports.replay",
    "AdaptiveLimit": "lorry.limits.adaptive",
    "Arrivals": "lorry.batch.arrivals",
    "BatchOptions": "lorry.batch.settings",
    "BatchRun": "lorry.batch.run",
    "BatchStats": "lorry.batch.stats",
    "Comparison": "lorry.sweep.compare",
    "Classification": "lorry.classify",
    "Client": "lorry.blocking.client",
    "Constant": "lorry.batch.arrivals",
    "Embeddings": "lorry.embeddings",
    "Entity": "lorry.classify",
    "Gamma": "lorry.batch.arrivals",
    "LimitChange": "lorry.limits.adaptive",
    "Poisson": "lorry.batch.arrivals",
    "Progress": "lorry.batch.progress",
    "RateLimit": "lorry.limits.rate",
    "Request": "lorry.batch.request",
    "ServerMetrics": "lorry.server_metrics",
    "SweepPoint": "lorry.sweep.point",
    "SweepResult": "lorry.sweep.result",
    "Trace": "lorry.batch.arrivals",
    "chrome_trace": "lorry.trace_events",
    "compare": "lorry.sweep.compare",
}

__all__ = [
    "ASGITransport",
    "AdapterCards",
    "AdapterExists",
    "AdapterInvalid",
    "AdapterLoading",
    "AdapterNotFound",
    "AdaptiveLimit",
    "Arrivals",
    "AsyncClient",
    "AttemptTiming",
    "BadRequest",
    "BatchOptions",
    "BatchRun",
    "BatchStats",
    "CallNext",
    "ChatOptions",
    "Classification",
    "Client",
    "ClientError",
    "ClientStats",
    "Comparison",
    "ConfigError",
    "ConnectError",
    "ConnectionLost",
    "Constant",
    "ContextTooLong",
    "DeadlineExceeded",
    "Embeddings",
    "Endpoint",
    "EndpointStats",
    "Entity",
    "EventStream",
    "FaultTransport",
    "Finished",
    "Forbidden",
    "Gamma",
    "GenerateOptions",
    "Generation",
    "HTTPStatusError",
    "Health",
    "KeepAlive",
    "Limit",
    "LimitChange",
    "Limiter",
    "Middleware",
    "Overloaded",
    "Permit",
    "Poisson",
    "Progress",
    "RateLimit",
    "RawResponse",
    "RawStream",
    "RecordingTransport",
    "ReplayMismatch",
    "ReplayTransport",
    "Request",
    "RetriesExhausted",
    "RetryBudget",
    "RetryPolicy",
    "ServerError",
    "ServerMetrics",
    "ServerStreamError",
    "ServerTiming",
    "Started",
    "StreamCancelled",
    "StreamError",
    "StreamProtocolError",
    "StreamTruncated",
    "SweepPoint",
    "SweepResult",
    "TextStream",
    "Timeout",
    "Timing",
    "Token",
    "TokenStream",
    "ToolCall",
    "Trace",
    "Transport",
    "Unauthorized",
    "Usage",
    "WireRequest",
    "WireResponse",
    "__version__",
    "chrome_trace",
    "compare",
    "sweep",
]


if not TYPE_CHECKING:  # else every name that does not exist would be taken for one that does

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_LATE[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATE})
