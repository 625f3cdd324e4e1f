"""The client's errors: one tree, every one of which pickles and says which call it was.

    ClientError
      ConfigError               a wrong argument, variable or address, found before any I/O
      AdapterExists             `adapters.load` found the name taken
      ReplayMismatch            a cassette has no answer for a request
      ConnectError              no connection: refused, name not found, TLS, no descriptor left
      ConnectionLost            the connection ended before the answer did
      DeadlineExceeded          time ran out; `phase` says while doing what
      StreamError
        StreamTruncated         a stream ended with neither finish reason nor [DONE]
        StreamCancelled         `TokenStream.cancel()` was called
        StreamProtocolError     the answer is not what the protocol says; `snippet` shows where
        ServerStreamError       the server reported a failure inside the stream
      HTTPStatusError           an answer that is not a success; `status`, `code`, `param`
        BadRequest              400, 422
          ContextTooLong        the prompt and `max_tokens` do not fit the model
        Unauthorized            401
        Forbidden               403
        AdapterNotFound         404 that names a model, an adapter, or the source of one
        AdapterLoading          409 or 503: the adapter is on its way
        AdapterInvalid          400, 422, 424: the adapter cannot be read or does not fit the base model
        Overloaded              429, 503: come again after `retry_after` seconds
        ServerError             424 and 5xx
      RetriesExhausted          the attempts failed in different ways; `causes` has them all

`asyncio.CancelledError` is not among them: it is passed on as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lorry.generation import Generation
    from lorry.timing import Timing

Phase = Literal["queue", "connect", "headers", "first_token", "idle", "total"]
NotRetried = Literal["not_retryable", "attempts", "retry_after", "deadline", "budget"]


class ClientError(Exception):
    """Base of all.

    The attributes below are filled in by the call that failed. `retryable` says that the server
    has not worked on the request, so that sending it again cannot run it twice. `not_retried` says
    why that was not done (again): the failure is none of that kind, all attempts were made, the
    server wants to be left alone for longer than the policy waits, the deadline is too near, or the
    retry budget is spent; None where the answer had begun. `causes` are the failures of the attempts
    before, in order. `endpoint` is the server of the last attempt. `partial` is what of a
    generation had come. `body` is the text of the server's error, at most 4 KiB, without keys.
    """

    status: int | None = None
    retryable: bool = False
    not_retried: NotRetried | None = None
    causes: tuple[ClientError, ...] = ()
    request_id: str | None = None
    endpoint: str | None = None
    adapter: str | None = None
    attempts: int = 0
    timing: Timing | None = None
    partial: Generation | None = None
    body: str | None = None

    def __repr__(self) -> str:
        facts = [repr(str(self))]
        if self.request_id is not None:
            facts.append(f"request_id={self.request_id!r}")
        if self.adapter is not None:
            facts.append(f"adapter={self.adapter!r}")
        if self.attempts > 1:
            facts.append(f"attempts={self.attempts}")
        return f"{type(self).__name__}({', '.join(facts)})"


class ConfigError(ClientError):
    """What a client was given to work with is wrong: an address, a key, a header, a limit of time,
    each of which may come from the environment; a file; a package that is missing.

    What only the caller's code can get wrong is a TypeError (no such option, the wrong kind of
    thing) or a ValueError (a number out of range), as in Python.
    """


class AdapterExists(ClientError):
    """An adapter of that name is there already, and replacing it was not asked for."""


class ReplayMismatch(ClientError):
    """The cassette that is replayed has no (further) answer for this request."""


class ConnectError(ClientError):
    """No connection could be made; `retryable` if it was refused."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.retryable = refused


class ConnectionLost(ClientError):
    """The connection ended after the request may have been sent: the server may have run it."""


class DeadlineExceeded(ClientError):
    """Time ran out. `phase` is what was being waited for; `limit_s` the limit that was passed."""

    def __init__(self, message: str, *, phase: Phase = "total", limit_s: float = 0.0) -> None:
        super().__init__(message)
        self.phase: Phase = phase
        self.limit_s = limit_s
        self.retryable = phase in ("queue", "connect")


class StreamError(ClientError):
    """A stream that did not come to its end."""


class StreamTruncated(StreamError):
    """The stream ended with neither finish reason nor `[DONE]`; `partial` holds what came."""


class StreamCancelled(StreamError):
    """The stream was cancelled by `TokenStream.cancel()`."""


class StreamProtocolError(StreamError):
    """An answer that cannot be read; `snippet` is the offending part, at most 200 bytes.

    `offset` is its place in the body of a stream, in bytes; that of its last piece, if it came in
    several.
    """

    def __init__(self, message: str, *, snippet: bytes = b"", offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset
        self.snippet = snippet[:200]


class ServerStreamError(StreamError):
    """The server gave up inside a stream; the message is the server's."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class HTTPStatusError(ClientError):
    """An answer with another status than success, for which there is no class below."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        retryable: bool = False,
        body: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.retryable = retryable
        self.body = body


class BadRequest(HTTPStatusError):
    """The request is at fault; `param` names the field when the server does."""


class ContextTooLong(BadRequest):
    """The prompt and `max_tokens` together do not fit into the model's context."""


class Unauthorized(HTTPStatusError):
    """No key, or a wrong one."""


class Forbidden(HTTPStatusError):
    """The key does not allow this."""


class AdapterNotFound(HTTPStatusError):
    """No model or adapter of that name is served, or nothing is at the source to be loaded."""


class AdapterLoading(HTTPStatusError):
    """The adapter is being loaded; `retry_after` says when to come again."""


class AdapterInvalid(HTTPStatusError):
    """The adapter cannot be read or does not fit the base model."""


class Overloaded(HTTPStatusError):
    """The server, or the key's share of it, is full; `retry_after` is in seconds."""


class ServerError(HTTPStatusError):
    """The server failed."""


class RetriesExhausted(ClientError):
    """Every attempt failed and not all in the same way; `causes` holds the errors in order."""

    def __init__(self, message: str, *, causes: tuple[ClientError, ...] = ()) -> None:
        super().__init__(message)
        self.causes = causes
