"""The decoder against the standard: its examples, the cases of the web's own tests, every split.

The names in `STANDARD_CASES` are those of the files under `eventsource/` of web-platform-tests that
ask about parsing; the streams are written anew.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lorry.sse import ServerSentEvent, SSEDecoder
from tests.support.plain_sse import PlainEvent, plain_events

MESSAGE = "message"
Expected = tuple[str, str, str]  # data, event, last event id


def message(data: str, *, event: str = MESSAGE, last_id: str = "") -> Expected:
    return (data, event, last_id)


STANDARD_CASES: dict[str, tuple[bytes, list[Expected]]] = {
    "format-bom": (
        b"\xef\xbb\xbfdata:first\n\ndata:second\n\n",
        [message("first"), message("second")],
    ),
    "format-bom-2": (
        b"\xef\xbb\xbf\xef\xbb\xbfdata:lost\n\ndata:kept\n\n\xef\xbb\xbfdata:lost too\n\n",
        [message("kept")],
    ),
    "format-comments": (
        b"data:one\n:\x00\n:\r\ndata:two\n:"
        + b"c" * 2048
        + b"\rdata:three\n:data:never\ndata:four\n\n",
        [message("one\ntwo\nthree\nfour")],
    ),
    "format-data-before-final-empty-line": (b"retry:1000\ndata:never dispatched\nid:4", []),
    "format-field-data": (
        b"data:\n\ndata\ndata\n\ndata:end\n\n",
        [message(""), message("\n"), message("end")],
    ),
    "format-field-event": (
        b"event:kind\ndata:a\n\ndata:b\n\n",
        [message("a", event="kind"), message("b")],
    ),
    "format-field-event-empty": (b"event: \ndata:a\n\n", [message("a")]),
    "format-field-id": (
        b"id:1\ndata:a\n\ndata:b\n\n",
        [message("a", last_id="1"), message("b", last_id="1")],
    ),
    "format-field-id-2": (
        "id:…\ndata:a\n\ndata:b\n\nid\ndata:c\n\n".encode(),
        [message("a", last_id="…"), message("b", last_id="…"), message("c")],
    ),
    "format-field-id-3": (
        b"id:here\n\ndata:a\n\nid:\n\ndata:b\n\n",
        [message("a", last_id="here"), message("b")],
    ),
    "format-field-id-null": (
        b"id:kept\nid:no\x00t\nid:\x00\ndata:a\n\n",
        [message("a", last_id="kept")],
    ),
    "format-field-parsing": (
        b"data:\x00\ndata:  2\rData:1\n\ndata\x00:2\ndata:1\r\x00data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n"
        b" data:32\ndata:4\n\n",
        [message("\x00\n 2"), message("1\n3\n\n4")],
    ),
    "format-field-retry": (b"retry:3000\ndata:a\n\n", [message("a")]),
    "format-field-retry-bogus": (b"retry:3000\nretry:1000x\ndata:a\n\n", [message("a")]),
    "format-field-retry-empty": (b"retry\ndata:a\n\n", [message("a")]),
    "format-field-unknown": (
        b"data:a\nno field\nrat:b\n data:c\ndata :d\ndata:e\n\n",
        [message("a\ne")],
    ),
    "format-leading-space": (b"data:\ta\rdata: \ndata:b\n\n", [message("\ta\n\nb")]),
    "format-newlines": (
        b"data:a\r\ndata:\ndata:b\r\r\ndata:c\n\r",
        [message("a\n\nb"), message("c")],
    ),
    "format-null-character": (b"data:\x00\n\n\n\n", [message("\x00")]),
    "format-utf-8": ("data:ok…🏴\n\n".encode(), [message("ok…🏴")]),
}
RETRY = {
    "format-field-retry": 3000,
    "format-field-retry-bogus": 3000,
    "format-data-before-final-empty-line": 1000,
}

# legal streams as servers send them, short enough for every pair of cuts
CORPUS: dict[str, bytes] = {
    "LF": b'data: {"a": 1}\n\n: keep-alive\n\ndata: [DONE]\n\n',
    "CR": b"event: x\rdata: a\rdata: b\r\r: c\r\rdata: c\r\r",
    "CRLF": b"id: 7\r\ndata: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n",
    "all three": b"data: a\r\n\ndata: b\r\rdata: c\n\r\ndata: d\r\n\r\ndata: e\n\r",
    "byte order mark": b"\xef\xbb\xbfdata: a\r\n\r\n\xef\xbb\xbfdata: b\n\ndata: c\n\n",
    "comments": b":\n: c\ndata: a\n:data: x\n\n:\r\n:\r\n\r\ndata: b\n\n",
    "many lines of data": b"data\ndata: a\ndata:\ndata:  b\ndata: c\n\ndata:\n\n",
    "line separators": "data: a\u2028b\u2029\u0085c\x0b\x0cd\n\ndata: \u2028\n\n".encode(),
    "four-byte characters": "data: 🏴\u200d☠️\r\n\r\ndata: 𝄞é\n\n".encode(),
}


def decode(*pieces: bytes) -> list[Expected]:
    decoder = SSEDecoder()
    return [as_expected(event) for piece in pieces for event in decoder.feed(piece)]


def as_expected(event: ServerSentEvent) -> Expected:
    return (event.text, event.event, event.last_event_id)


def by_the_letter(stream: bytes) -> list[Expected]:
    return [(event.data, event.event, event.last_event_id) for event in plain_events(stream)]


@pytest.mark.parametrize("name", STANDARD_CASES)
def test_case_of_the_standard(name: str) -> None:
    stream, expected = STANDARD_CASES[name]

    assert by_the_letter(stream) == expected  # the table itself is right
    assert decode(stream) == expected
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == expected


@pytest.mark.parametrize("name", STANDARD_CASES)
def test_retry_of_the_standards_cases(name: str) -> None:
    decoder = SSEDecoder()
    decoder.feed(STANDARD_CASES[name][0] + b"\n")

    assert decoder.retry_ms == RETRY.get(name)


@pytest.mark.parametrize("name", CORPUS)
def test_stream_is_the_same_at_every_pair_of_cuts(name: str) -> None:
    stream = CORPUS[name]
    expected = by_the_letter(stream)

    assert expected
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            cut = decode(stream[:first], stream[first:second], stream[second:])
            assert cut == expected, (first, second)


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_stream_is_the_same_in_pieces_of_one_size(name: str, size: int) -> None:
    stream = CORPUS[name]
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]

    assert decode(*pieces) == by_the_letter(stream)


@pytest.mark.parametrize("name", CORPUS)
def test_event_comes_with_the_byte_that_ends_it(name: str) -> None:
    stream = CORPUS[name]
    decoder = SSEDecoder()
    num_events = 0
    for end in range(1, len(stream) + 1):
        num_events += len(decoder.feed(stream[end - 1 : end]))

        # an LF that may follow a CR belongs to it, so the letter of the standard agrees here too
        assert num_events == len(plain_events(stream[:end]))


SOUP = st.lists(
    st.sampled_from(
        [
            *(b"\r", b"\n", b"\r\n", b"\n\n", b":", b" ", b"\0", b"data", b"data:", b"data: "),
            *(b"event:", b"id:", b"id", b"retry:", b"1", b"x", b"\xef\xbb\xbf", b"\xef", b"\xbb"),
            *("\u2028".encode(), "🏴".encode(), b"\xf0\x9f", b"\xff"),
        ]
    ),
    max_size=40,
).map(b"".join)


@given(stream=SOUP, cuts=st.lists(st.integers(0, 120), max_size=8))
@example(stream=b"\xef\xbb", cuts=[1])
@example(stream=b"data:\xef\xbb\n\n", cuts=[6])
def test_anything_is_read_as_the_standard_reads_it(stream: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    assert decode(*(stream[a:b] for a, b in pairwise(ends))) == by_the_letter(stream)


def test_retry_of_any_length_is_a_number() -> None:
    decoder = SSEDecoder()
    decoder.feed(b"retry: " + b"0" * 5000 + b"42\n")
    assert decoder.retry_ms == 42
    decoder.feed(b"retry: " + b"9" * 5000 + b"\n")
    assert decoder.retry_ms == 10**18


def test_plain_reading_agrees_with_itself_on_an_example_of_the_standard() -> None:
    stream = b"data: YHOO\ndata: +2\ndata: 10\n\n: test stream\n\ndata: first event\nid: 1\n\n"
    assert plain_events(stream) == [
        PlainEvent("YHOO\n+2\n10", MESSAGE, ""),
        PlainEvent("first event", MESSAGE, "1"),
    ]


class Work:
    """Bytes that the decoder looked at or copied, and the calls in which it did."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num_calls = 0

    def counted(self, data: bytes) -> CountedBytes:
        counted = CountedBytes(data)
        counted.work = self
        return counted


class CountedBytes(bytes):
    """What comes of it is counted as well."""

    work: Work

    def split(self, sep: Any = None, maxsplit: Any = -1) -> list[bytes]:
        self._note()
        return [self.work.counted(part) for part in super().split(sep, maxsplit)]

    def replace(self, old: Any, new: Any, count: Any = -1) -> bytes:
        self._note()
        return self.work.counted(super().replace(old, new, count))

    def removeprefix(self, prefix: Any) -> bytes:
        self._note()
        return self.work.counted(super().removeprefix(prefix))

    def partition(self, sep: Any) -> tuple[bytes, bytes, bytes]:
        self._note()
        name, colon, value = super().partition(sep)
        return name, colon, self.work.counted(value)

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if isinstance(part, int):
            return part
        self._note()
        return self.work.counted(part)

    def __contains__(self, item: Any) -> bool:
        self._note()
        return super().__contains__(item)

    def __add__(self, other: Any) -> bytes:
        self._note()
        return self.work.counted(super().__add__(other))

    def __radd__(self, other: bytes) -> bytes:
        self._note()
        return self.work.counted(other + bytes(self))

    def _note(self) -> None:
        self.work.num_calls += 1
        self.work.num_bytes += len(self)


def work_on(*, num_bytes: int, newline: bytes, line_bytes: int) -> tuple[Work, int, int]:
    """Decode one event of that size, 4 KiB at a time; also the bytes joined and given back."""
    work, decoder = Work(), SSEDecoder()
    line = b"data:" + b"x" * (line_bytes - 5 - len(newline)) + newline
    stream = line * (num_bytes // line_bytes) + newline
    num_joins = 0

    def watch(frame: Any, what: str, function: Any) -> None:
        nonlocal num_joins
        if what == "c_call" and getattr(function, "__name__", "") == "join":
            num_joins += 1

    events = []
    sys.setprofile(watch)
    try:
        for start in range(0, len(stream), 4096):
            events += decoder.feed(work.counted(stream[start : start + 4096]))
    finally:
        sys.setprofile(None)
    assert len(events) == 1
    return work, num_joins, len(events[0].data)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("line_bytes", [4096 * 64, 32 * 2**20])
def test_twice_the_event_is_twice_the_work(newline: bytes, line_bytes: int) -> None:
    half, half_joins, half_bytes = work_on(
        num_bytes=32 * 2**20, newline=newline, line_bytes=line_bytes
    )
    whole, whole_joins, whole_bytes = work_on(
        num_bytes=64 * 2**20, newline=newline, line_bytes=line_bytes
    )

    assert whole_bytes == pytest.approx(2 * half_bytes, rel=0.01)
    assert whole.num_bytes == pytest.approx(2 * half.num_bytes, rel=0.01)
    assert whole.num_calls == pytest.approx(2 * half.num_calls, rel=0.01)
    # each byte of a line is joined once to the rest of it, and once to the other lines
    assert whole_joins <= 64 * 2**20 // line_bytes + 2
    assert half_joins <= whole_joins
    # looked for newlines of two kinds, taken apart, and told from its name
    assert whole.num_bytes <= 8 * 64 * 2**20
