"""Async client of lorry: one base model, many adapters.

async with lorry.AsyncClient("http://127.0.0.1:8000") as client:
    generation = await client.generate("Hello", max_tokens=20, adapter="pirate")
"""

from __future__ import annotations

from lorry._version import __version__
from lorry.batch.arrivals import Arrivals, Constant, Gamma, Poisson, Trace
from lorry.batch.progress import Progress
from lorry.batch.request import Request
from lorry.batch.run import BatchRun
from lorry.batch.settings import BatchOptions
from lorry.batch.stats import BatchStats
from lorry.client import AsyncClient
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
from lorry.options import GenerateOptions
from lorry.retry import RetryPolicy
from lorry.stream import TextStream, TokenStream
from lorry.sweep import Comparison, SweepPoint, SweepResult, compare, sweep
from lorry.timeout import Timeout
from lorry.timing import AttemptTiming, Timing
from lorry.transports.base import Transport, WireRequest, WireResponse

__all__ = [
    "AdapterExists",
    "AdapterInvalid",
    "AdapterLoading",
    "AdapterNotFound",
    "Arrivals",
    "AsyncClient",
    "AttemptTiming",
    "BadRequest",
    "BatchOptions",
    "BatchRun",
    "BatchStats",
    "ClientError",
    "Comparison",
    "ConfigError",
    "ConnectError",
    "ConnectionLost",
    "Constant",
    "ContextTooLong",
    "DeadlineExceeded",
    "Forbidden",
    "Gamma",
    "GenerateOptions",
    "Generation",
    "HTTPStatusError",
    "Health",
    "Overloaded",
    "Poisson",
    "Progress",
    "Request",
    "RetriesExhausted",
    "RetryPolicy",
    "ServerError",
    "ServerStreamError",
    "ServerTiming",
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
    "Trace",
    "Transport",
    "Unauthorized",
    "Usage",
    "WireRequest",
    "WireResponse",
    "__version__",
    "compare",
    "sweep",
]
