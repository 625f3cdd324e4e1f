"""One GET on a connection of its own, for what is not load: lists, metrics, logs."""

from __future__ import annotations

import time

import gevent

from lorry_loadtest.connection import Connection
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.http1 import MalformedHttp, ResponseReader, encode_request
from lorry_loadtest.outcomes import AttemptFailed


class GetFailed(Exception):
    """No 200 came; `status` is 0 when no answer came at all. The text says what was seen."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def http_get(
    endpoint: Endpoint,
    path: str,
    *,
    api_key: str | None = None,
    timeout_s: float = 10.0,
    connection: Connection | None = None,
) -> bytes:
    """The body of a 200; raises GetFailed. `connection` is kept open, one of its own is not."""
    used = connection or Connection(endpoint, connect_timeout_s=timeout_s)
    headers = {"Accept": "*/*"} | ({} if connection else {"Connection": "close"})
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    reader = ResponseReader()
    body = b""
    started_s = time.monotonic()
    limit = gevent.Timeout(timeout_s)
    limit.start()
    try:
        used.open()
        used.send(encode_request("GET", path, endpoint=endpoint, headers=headers))
        used.stream.hand_over_each_read()
        while not reader.complete:
            reads = used.stream.wait_reads()
            body += b"".join(reader.feed(read.data) for read in reads)
            if not reads and not reader.feed_eof():
                raise GetFailed(reader.status, "it closed the connection")
    except gevent.Timeout as exc:
        if exc is not limit:
            raise
        waited_s = time.monotonic() - started_s
        raise GetFailed(reader.status, f"no whole answer within {waited_s:.1f} s") from exc
    except (AttemptFailed, MalformedHttp) as exc:
        raise GetFailed(reader.status, str(exc)) from exc
    finally:
        limit.close()
        if connection is None or not reader.reusable:
            used.close()
    if reader.status != 200:
        text = body[:200].decode("utf-8", "replace")
        raise GetFailed(reader.status, f"GET {path} answered {reader.status}: {text}")
    return body
