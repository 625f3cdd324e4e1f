"""Every line is one of three shapes, or is named by its number with what is wrong with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lorry_server.finetune.data import (
    BadLine,
    Completion,
    Conversation,
    PlainText,
    describe_bad_lines,
    parse_lines,
)

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_three_shapes_are_read_and_blank_lines_and_a_byte_order_mark_passed_over() -> None:
    rows = [{"messages": MESSAGES}, {"prompt": "a", "completion": "b"}, {"text": "c"}]
    raw = b"\xef\xbb\xbf" + "\r\n\r\n".join(map(json.dumps, rows)).encode() + b"\n"

    lines, bad = parse_lines(raw)

    assert bad == []
    assert [line.shape for line in lines] == [
        Conversation(tuple(MESSAGES)),
        Completion("a", "b"),
        PlainText("c"),
    ]
    assert [line.number for line in lines] == [1, 3, 5]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"text": "a"', "not JSON: .* at character 13"),
        (b'{"text": "\xff"}', r"not UTF-8 \(byte 10\)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["text"]', "a JSON object is wanted, not a list"),
        (b"null", "not null"),
        (b"{}", 'one of "messages", .* the line has nothing'),
        (b'{"question": "a"}', 'the line has "question"'),
        (b'{"text": "a", "prompt": "b", "completion": "c"}', 'the line has "text", "prompt"'),
        (b'{"prompt": "a"}', '"prompt" has no "completion"'),
        (b'{"prompt": [], "completion": "a"}', 'write a conversation as "messages"'),
        (b'{"prompt": "a", "completion": 3}', '"completion" must be text, not a number'),
        (b'{"prompt": "a", "completion": " "}', '"completion" is empty'),
        (b'{"text": ""}', '"text" is empty'),
        (b'{"messages": "a"}', '"messages" must be a list of objects'),
        (b'{"messages": ["a"]}', '"messages" must be a list of objects'),
        (b'{"messages": [], "tools": []}', '"tools" is not supported'),
    ],
)
def test_bad_line_is_named_by_number_and_reason(row: bytes, reason: str) -> None:
    lines, bad = parse_lines(b'{"text": "good"}\n' + row + b'\n{"text": "good"}')

    assert [line.number for line in lines] == [1, 3]
    assert [line.number for line in bad] == [2]
    assert re.search(reason, bad[0].reason), bad[0].reason


def test_keys_that_mean_nothing_to_training_are_noted() -> None:
    lines, _ = parse_lines(b'{"id": 7, "text": "a", "source": "b"}')

    assert lines[0].ignored == ("id", "source")


def test_only_the_first_ten_bad_lines_are_told() -> None:
    bad = [BadLine(number, "no reason") for number in range(12, 0, -1)]

    told = describe_bad_lines(Path("some/x.jsonl"), bad, num_lines=20).splitlines()

    assert told[0] == "x.jsonl: 12 of 20 lines cannot be learned from"
    assert told[1] == "  line 1: no reason"
    assert told[-1] == "  and 2 more"
    assert len(told) == 12
