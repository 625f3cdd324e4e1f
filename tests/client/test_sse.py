"""The decoder: what becomes of each kind of line, at every cut; `test_sse_standard` has the rest."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorry.sse import ServerSentEvent, SSEDecoder

# name -> (bytes, the data of the events that they dispatch); newlines are LF here and varied below
CASES: dict[str, tuple[bytes, list[str]]] = {
    "one event": (b"data: a\n\n", ["a"]),
    "two events": (b"data: a\n\ndata: b\n\n", ["a", "b"]),
    "several data lines": (b"data: a\ndata: b\ndata\ndata: c\n\n", ["a\nb\n\nc"]),
    "no space after the colon": (b"data:a\n\n", ["a"]),
    "one space is taken away, no more": (b"data:  a \n\n", [" a "]),
    "a tab is not a space": (b"data:\ta\n\n", ["\ta"]),
    "empty data is an event": (b"data:\n\n", [""]),
    "data without a colon is an event": (b"data\n\n", [""]),
    "two empty data lines": (b"data\ndata\n\n", ["\n"]),
    "comments": (b": c\ndata: a\n:\n:data: x\ndata: b\n\n", ["a\nb"]),
    "comments alone": (b": keep-alive\n\n:\n\n", []),
    "unknown fields": (b"data: a\nfoo: b\nData: c\n data: d\nd\x00ata: e\n\n", ["a"]),
    "no event without data": (b"event: x\nid: 1\nretry: 5\n\n", []),
    "colon in the value": (b"data: a: b\n\n", ["a: b"]),
    "letters of the field's name in front": (b"data:dataatad:\n\n", ["dataatad:"]),
    "unfinished event is dropped": (b"data: a\n\ndata: b\n", ["a"]),
    "unfinished line is dropped": (b"data: a\n\ndata: b", ["a"]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
    "second byte order mark": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", ["b"]),
    "byte order mark inside": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", ["a"]),
    "other separators stay": (
        "data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n\n".encode(),
        ["a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"],
    ),
    "four-byte characters": ("data: 🏴\u200d☠️ é\n\n".encode(), ["🏴\u200d☠️ é"]),
    "not UTF-8": (b"data: \xff\xc3\n\n", ["\ufffd\ufffd"]),
    "null in the data": (b"data: a\x00b\n\n", ["a\x00b"]),
    "blank lines between": (b"\n\n\ndata: a\n\n\n\ndata: b\n\n\n", ["a", "b"]),
    "retry and comment after an id": (b"id: 7\n: c\nretry: 10\ndata: a\n\n", ["a"]),
}
NEWLINES = {"LF": b"\n", "CR": b"\r", "CRLF": b"\r\n"}


def decode(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def texts(*pieces: bytes) -> list[str]:
    return [event.text for event in decode(*pieces)]


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("name", CASES)
def test_case_decodes_alike_at_every_cut(name: str, newline: str) -> None:
    stream, expected = CASES[name]
    stream = stream.replace(b"\n", NEWLINES[newline])

    assert texts(stream) == expected
    assert texts(*(stream[i : i + 1] for i in range(len(stream)))) == expected
    for cut in range(len(stream) + 1):
        assert texts(stream[:cut], stream[cut:]) == expected
        assert texts(stream[:cut], b"", stream[cut : cut + 1], stream[cut + 1 :]) == expected


def test_mixed_newlines_each_end_one_line() -> None:
    stream = b"data: a\r\n\ndata: b\r\rdata: c\n\r\ndata: d\r\n\r\ndata: e\n\r"

    assert texts(stream) == ["a", "b", "c", "d", "e"]
    assert texts(*(stream[i : i + 1] for i in range(len(stream)))) == ["a", "b", "c", "d", "e"]


def test_event_is_dispatched_by_a_cr_without_waiting_for_its_lf() -> None:
    decoder = SSEDecoder()

    first = decoder.feed(b"data: a\r\n\r")
    rest = decoder.feed(b"\ndata: b\n\n")

    assert [event.text for event in first] == ["a"]
    assert [event.text for event in rest] == ["b"]


def test_event_name_holds_for_one_event() -> None:
    stream = b"event: error\ndata: a\n\ndata: b\n\nevent: x\n\ndata: c\n\nevent:\ndata: d\n\n"

    assert [event.event for event in decode(stream)] == ["error", "message", "message", "message"]


def test_last_event_id_stays_until_it_is_set_again() -> None:
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid: 2\x00\ndata: c\n\nid\ndata: d\n\n"

    assert [event.last_event_id for event in decode(stream)] == ["1", "1", "1", ""]


def test_retry_takes_ascii_digits_only() -> None:
    decoder = SSEDecoder()
    decoder.feed(
        b"retry: 1500\nretry: 15x\nretry:\nretry: -1\nretry: 1.5\n" + "retry: ٣\n".encode()
    )

    assert decoder.retry_ms == 1500


def test_comments_are_counted() -> None:
    decoder = SSEDecoder()
    decoder.feed(b": a\n\n:\ndata: x\n\n")

    assert decoder.num_comments == 2


@given(
    payloads=st.lists(st.text().map(lambda text: text.replace("\r", "").replace("\n", ""))),
    newline=st.sampled_from(sorted(NEWLINES.values())),
    cuts=st.lists(st.integers(0, 400)),
)
def test_what_is_encoded_is_decoded_however_it_is_cut(
    payloads: list[str], newline: bytes, cuts: list[int]
) -> None:
    stream = b"".join(b"data: " + text.encode() + newline * 2 for text in payloads)
    ends = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    assert texts(*(stream[a:b] for a, b in pairwise(ends))) == payloads
