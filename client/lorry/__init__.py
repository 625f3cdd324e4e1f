"""Async client of lorry: one base model, many adapters.

async with lorry.AsyncClient("http://127.0.0.1:8000") as client:
    generation = await client.generate("Hello", max_tokens=20, adapter="pirate")
"""

from __future__ import annotations

from lorry._version import __version__
from lorry.adapter_report import AdapterCards
from lorry.blocking.client import Client
from lorry.classify import Classification, Entity
from lorry.client import AsyncClient
from lorry.embeddings import Embeddings
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
from lorry.many import Request
from lorry.options import ChatOptions, GenerateOptions
from lorry.retry import RetryPolicy
from lorry.server_metrics import ServerMetrics
from lorry.stream import TextStream, TokenStream
from lorry.timeout import Timeout
from lorry.timing import AttemptTiming, Timing
from lorry.tool_calls import ToolCall
from lorry.trace_events import chrome_trace
from lorry.transports.base import Transport, WireRequest, WireResponse

__all__ = [
    "AdapterCards",
    "AdapterExists",
    "AdapterInvalid",
    "AdapterLoading",
    "AdapterNotFound",
    "AsyncClient",
    "AttemptTiming",
    "BadRequest",
    "ChatOptions",
    "Classification",
    "Client",
    "ClientError",
    "ConfigError",
    "ConnectError",
    "ConnectionLost",
    "ContextTooLong",
    "DeadlineExceeded",
    "Embeddings",
    "Entity",
    "Forbidden",
    "GenerateOptions",
    "Generation",
    "HTTPStatusError",
    "Health",
    "Overloaded",
    "Request",
    "RetriesExhausted",
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
