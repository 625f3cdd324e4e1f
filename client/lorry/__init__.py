"""Async client of lorry: one base model, many adapters.

async with lorry.AsyncClient("http://127.0.0.1:8000") as client:
    generation = await client.generate("Hello", max_tokens=20, adapter="pirate")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lorry._version import __version__
from lorry.adapter_report import AdapterCards
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
from lorry.health import Health
from lorry.limits.adaptive import AdaptiveLimit, LimitChange
from lorry.limits.base import Limiter, Permit
from lorry.limits.fixed import Limit
from lorry.limits.rate import RateLimit
from lorry.many import Request
from lorry.middleware import CallNext, Middleware
from lorry.options import ChatOptions, GenerateOptions
from lorry.raw import RawResponse, RawStream
from lorry.retry import RetryBudget, RetryPolicy
from lorry.stats import ClientStats
from lorry.stream import TextStream, TokenStream
from lorry.timeout import Timeout
from lorry.timing import AttemptTiming, Timing
from lorry.tool_calls import ToolCall
from lorry.transports.base import Transport, WireRequest, WireResponse

if TYPE_CHECKING:
    from lorry.blocking.client import Client
    from lorry.classify import Classification, Entity
    from lorry.embeddings import Embeddings
    from lorry.server_metrics import ServerMetrics
    from lorry.trace_events import chrome_trace
    from lorry.transports.asgi import ASGITransport
    from lorry.transports.faults import FaultTransport
    from lorry.transports.record import RecordingTransport
    from lorry.transports.replay import ReplayTransport

__all__ = [
    "ASGITransport",
    "AdapterCards",
    "AdapterExists",
    "AdapterInvalid",
    "AdapterLoading",
    "AdapterNotFound",
    "AdaptiveLimit",
    "AsyncClient",
    "AttemptTiming",
    "BadRequest",
    "CallNext",
    "ChatOptions",
    "Classification",
    "Client",
    "ClientError",
    "ClientStats",
    "ConfigError",
    "ConnectError",
    "ConnectionLost",
    "ContextTooLong",
    "DeadlineExceeded",
    "Embeddings",
    "Endpoint",
    "EndpointStats",
    "Entity",
    "FaultTransport",
    "Forbidden",
    "GenerateOptions",
    "Generation",
    "HTTPStatusError",
    "Health",
    "Limit",
    "LimitChange",
    "Limiter",
    "Middleware",
    "Overloaded",
    "Permit",
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
    "StreamCancelled",
    "StreamError",
    "StreamProtocolError",
    "StreamTruncated",
    "TextStream",
    "Timeout",
    "Timing",
    "Token",
    "TokenStream",
    "ToolCall",
    "Transport",
    "Unauthorized",
    "Usage",
    "WireRequest",
    "WireResponse",
    "__version__",
    "chrome_trace",
]

# not part of most programs, so not of every import
_LATE = {
    "ASGITransport": "lorry.transports.asgi",
    "FaultTransport": "lorry.transports.faults",
    "RecordingTransport": "lorry.transports.record",
    "ReplayTransport": "lorry.transports.replay",
    "Classification": "lorry.classify",
    "Client": "lorry.blocking.client",
    "Embeddings": "lorry.embeddings",
    "Entity": "lorry.classify",
    "ServerMetrics": "lorry.server_metrics",
    "chrome_trace": "lorry.trace_events",
}

if not TYPE_CHECKING:  # else every name would seem to exist

    def __getattr__(name):
        if name not in _LATE:
            raise AttributeError(f"module 'lorry' has no attribute {name!r}")
        return getattr(importlib.import_module(_LATE[name]), name)
