"""What a remote place's exceptions mean, in a sentence that holds nothing which they carry.

They come from libraries that are not imported here and may not be installed, and their texts may
hold addresses with signatures. So they are told apart by the names of their classes and by a
status, and a reader of the log finds them as the cause of ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from lorry_server.adapters.source import AdapterSourceError

MISSING_STATUSES = (404, 410)
DENIED_STATUSES = (401, 403)

_DENIED = {"PermissionError", "NoCredentialsError", "PartialCredentialsError"}
_LATE = {"TimeoutError", "FSTimeoutError", "ReadTimeoutError", "ConnectTimeoutError"}
_CUT = {
    "ClientPayloadError",
    "IncompleteReadError",
    "RemoteProtocolError",
    "ResponseStreamingError",
}
_UNREACHABLE = {
    "ConnectionError",
    "ClientConnectionError",
    "ConnectError",
    "EndpointConnectionError",
    "gaierror",
}


class RedirectedError(Exception):
    """An HTTP server sends us elsewhere, where we may not be allowed to go."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address  # scheme and host only


def source_error(error: BaseException, what: str) -> AdapterSourceError:
    """Our error for what went wrong with `what`, such as "adapter_config.json at 's3://b/x'"."""
    status = status_of(error)
    names = {cls.__name__ for cause in _causes(error) for cls in type(cause).__mro__}
    redirected = next((c for c in _causes(error) if isinstance(c, RedirectedError)), None)
    if is_missing(error):
        return AdapterSourceError(f"there is no {what}", is_missing=True)
    if redirected is not None:
        reason = (
            f"the server sends us on to {redirected.address[:128]!r}; redirections are not "
            "followed, name that address as the source and allow it with --adapter-source"
        )
    elif status in DENIED_STATUSES or names & _DENIED:
        reason = (
            "access was denied; the credentials in the server's environment do not allow it, or "
            "there are none"
        )
    elif status is not None:
        reason = f"the answer had the status {status}"
    elif names & _LATE:
        reason = "there was no answer in time"
    elif names & _CUT:
        reason = "the connection ended before the file did"
    elif names & _UNREACHABLE:
        reason = "it cannot be reached"
    else:
        reason = f"the library that reads it raised {type(error).__name__}"
    return AdapterSourceError(f"cannot fetch {what}: {reason}")


def is_missing(error: BaseException) -> bool:
    """Whether it says that there is no such file, and not only that it could not be had."""
    status = status_of(error)
    if status is not None:
        return status in MISSING_STATUSES
    # fsspec's HTTP file system raises FileNotFoundError for whatever went wrong
    return isinstance(error, FileNotFoundError) and error.__cause__ is None


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception or one of its causes carries."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):  # botocore's
            metadata = response.get("ResponseMetadata")
            status = metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
        else:
            status = getattr(response, "status_code", None)  # requests' and httpx's
        for found in (status, getattr(cause, "status", None), getattr(cause, "status_code", None)):
            if isinstance(found, int):
                return found
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(8):  # a chain of causes may be a ring
        if cause is None:
            return
        yield cause
        cause = cause.__cause__
