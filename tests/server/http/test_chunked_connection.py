"""The short way for chunks writes what h11 writes."""

from __future__ import annotations

import h11
import pytest

from lorry_server.http.chunked_connection import ChunkedConnection

REQUEST = b"%b /x HTTP/%b\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
PARTS = [b"data: a\n\n", b"", b"x" * 70_000, b"\r\n"]


def sent(connection: h11.Connection, *, method: bytes, version: bytes, length: int | None) -> bytes:
    """Answer two requests on one connection, if it stays open; return all that was written."""
    written = b""
    for _ in range(2):
        connection.receive_data(REQUEST % (method, version))
        while connection.next_event() not in (h11.NEED_DATA, h11.PAUSED):
            pass
        headers = [] if length is None else [("content-length", str(length))]
        parts = PARTS if method != b"HEAD" else [b""]
        events = [h11.Response(status_code=200, headers=headers), *map(as_data, parts)]
        for event in (*events, h11.EndOfMessage()):
            written += connection.send(event) or b""
        if connection.our_state is not h11.DONE:
            break
        connection.start_next_cycle()
    return written


def as_data(part: bytes) -> h11.Data:
    return h11.Data(data=part)


@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("length", [None, sum(map(len, PARTS))])
def test_bytes_are_those_of_h11(method: bytes, version: bytes, length: int | None) -> None:
    options = {"method": method, "version": version, "length": length}

    ours = sent(ChunkedConnection(h11.SERVER), **options)

    assert ours == sent(h11.Connection(h11.SERVER), **options)


def test_part_after_the_end_is_refused() -> None:
    connection = ChunkedConnection(h11.SERVER)
    sent(connection, method=b"POST", version=b"1.1", length=None)

    with pytest.raises(h11.LocalProtocolError):
        connection.send(as_data(b"late"))
