"""Columns of text: their layout, and drawing over what was drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorry.side_by_side import LiveColumns, columns, fits, num_cells, wrap


def test_texts_stand_under_their_titles() -> None:
    lines = columns(["a", "b"], ["one two three", "four\nfive"], width=24)

    assert lines == [
        "a          │ b",
        "────────── │ ──────────",
        "one two    │ four",
        "three      │ five",
    ]


def test_columns_need_room() -> None:
    assert fits(2, 80)
    assert fits(3, 80)
    assert not fits(4, 80)


@pytest.mark.parametrize(
    ("text", "cells", "lines"),
    [
        ("", 5, [""]),
        ("abc", 5, ["abc"]),
        ("abcdefgh", 5, ["abcde", "fgh"]),
        ("ab cdefgh", 5, ["ab", "cdefg", "h"]),
        ("漢字漢字", 5, ["漢字", "漢字"]),
        ("漢", 1, ["漢"]),
        ("a\n\nb", 5, ["a", "", "b"]),
        ("e\u0301e\u0301e\u0301", 3, ["e\u0301e\u0301e\u0301"]),
    ],
)
def test_lines_are_broken_at_spaces_where_there_are_any(
    text: str, cells: int, lines: list[str]
) -> None:
    assert wrap(text, cells) == lines


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))), st.integers(2, 30))
def test_no_line_is_too_long_and_nothing_but_spaces_is_lost(text: str, cells: int) -> None:
    lines = wrap(text, cells)

    assert all(num_cells(line) <= cells for line in lines)
    assert "".join("".join(lines).split(" ")) == "".join(text.split(" "))


class Screen:
    """Obeys the few commands that are sent: up, to the left, clear what is below."""

    def __init__(self, height: int) -> None:
        self.lines = [""]
        self._height = height

    def __call__(self, text: str) -> None:
        while text:
            if text.startswith("\x1b["):
                end = min(index for index, char in enumerate(text) if char in "AJ")
                command, text = text[2 : end + 1], text[end + 1 :]
                if command == "J":
                    continue
                num_up = int(command[:-1])
                assert num_up < self._height, "what has scrolled away cannot be reached"
                del self.lines[len(self.lines) - num_up :]
                self.lines[-1] = ""
            elif text[0] in "\r\n":
                self.lines += [""] if text[0] == "\n" else []
                text = text[1:]
            else:
                self.lines[-1] += text[0]
                text = text[1:]


@pytest.mark.parametrize("num_words", [1, 5, 200])
def test_what_is_left_on_the_screen_is_the_whole_once(num_words: int) -> None:
    screen = Screen(height=10)
    live = LiveColumns(["a", "b"], write=screen, width=60, height=10)
    texts = ["", ""]
    for index in range(num_words):
        texts = [f"{texts[0]}word{index} ", f"{texts[1]}other{index} "]
        live.draw(texts)
        assert screen.lines[-2].strip() or index == 0
    live.finish(texts)

    expected = columns(["a", "b"], texts, width=60)
    assert screen.lines[len(screen.lines) - len(expected) - 1 :] == [*expected, ""]
