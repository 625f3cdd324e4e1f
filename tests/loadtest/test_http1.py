from __future__ import annotations

import pytest

from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.http1 import MalformedHttp, ResponseReader, encode_request

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
    b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_chunked_body_is_read_however_the_bytes_are_cut(size: int) -> None:
    reader = ResponseReader()

    body = b"".join(reader.feed(CHUNKED[i : i + size]) for i in range(0, len(CHUNKED), size))

    assert body == b"hello world"
    assert reader.complete
    assert reader.reusable
    assert reader.status == 200


def test_a_part_of_a_chunk_is_handed_over_at_once() -> None:
    reader = ResponseReader()

    body = reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhel")

    assert body == b"hel"
    assert not reader.complete


def test_a_body_of_known_length_ends_with_its_last_byte() -> None:
    reader = ResponseReader()

    body = reader.feed(b"HTTP/1.1 429 Busy\r\ncontent-length: 4\r\nConnection: close\r\n\r\nfull")

    assert body == b"full"
    assert reader.complete
    assert not reader.reusable


def test_a_body_without_length_ends_when_the_server_closes() -> None:
    reader = ResponseReader()
    body = reader.feed(b"HTTP/1.1 200 OK\r\n\r\npart")

    assert body == b"part"
    assert not reader.complete
    assert reader.feed_eof()
    assert not reader.reusable


def test_a_chunked_body_that_is_cut_is_not_complete() -> None:
    reader = ResponseReader()
    reader.feed(CHUNKED[:-20])

    assert not reader.feed_eof()


def test_informational_answers_are_passed_over() -> None:
    reader = ResponseReader()

    reader.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")

    assert reader.status == 204
    assert reader.complete


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"x" * 100_000,
    ],
)
def test_bytes_that_are_no_http_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedHttp):
        ResponseReader().feed(data)


def test_a_request_names_its_host_and_the_length_of_its_body() -> None:
    endpoint = parse_endpoint("http://localhost:8000/base/v1")

    encoded = encode_request("POST", "/v1/x", endpoint=endpoint, headers={"A": "b"}, body=b"{}")

    head, _, body = encoded.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /base/v1/x HTTP/1.1",
        b"Host: localhost:8000",
        b"A: b",
        b"Content-Type: application/json",
        b"Content-Length: 2",
    ]
    assert body == b"{}"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "http://x:y", "http://x?q"]
)
def test_a_wrong_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        parse_endpoint(url)
