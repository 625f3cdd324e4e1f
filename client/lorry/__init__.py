"""Async client of lorry: one base model, many adapters.

async with lorry.AsyncClient("http://127.0.0.1:8000") as client:
    generation = await client.generate("Hello", max_tokens=20, adapter="pirate")
"""

from __future__ import annotations

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
from lorry.options import GenerateOptions
from lorry.raw import RawResponse, RawStream
from lorry.retry import RetryBudget, RetryPolicy
from lorry.stats import ClientStats
from lorry.stream import TextStream, TokenStream
from lorry.timeout import Timeout
from lorry.timing import AttemptTiming, Timing
from lorry.transports.base import Transport, WireRequest, WireResponse

__all__ = [
    "AdapterExists",
    "AdapterInvalid",
    "AdapterLoading",
    "AdapterNotFound",
    "AdaptiveLimit",
    "AsyncClient",
    "AttemptTiming",
    "BadRequest",
    "CallNext",
    "ClientError",
    "ClientStats",
    "ConfigError",
    "ConnectError",
    "ConnectionLost",
    "ContextTooLong",
    "DeadlineExceeded",
    "Endpoint",
    "EndpointStats",
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
    "Request",
    "RetriesExhausted",
    "RetryBudget",
    "RetryPolicy",
    "ServerError",
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
    "Transport",
    "Unauthorized",
    "Usage",
    "WireRequest",
    "WireResponse",
    "__version__",
]
