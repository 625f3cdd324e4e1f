"""Answers in columns next to each other: text laid out for a terminal, and redrawn as it grows."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from itertools import zip_longest

MIN_COLUMN_CHARS = 20
_GAP = " │ "


def fits(num_columns: int, width: int) -> bool:
    """Whether a terminal of `width` cells has room for so many columns."""
    return column_cells(num_columns, width) >= MIN_COLUMN_CHARS


def column_cells(num_columns: int, width: int) -> int:
    """The width of one column. The last cell of a line stays free: some terminals wrap at it."""
    return (width - 1 - len(_GAP) * (num_columns - 1)) // num_columns


def columns(titles: Sequence[str], texts: Sequence[str], *, width: int) -> list[str]:
    """The lines of a table whose columns are texts, each under its title and broken at spaces."""
    cells = column_cells(len(titles), width)
    wrapped = [wrap(text, cells) for text in texts]
    heads = [wrap(title, cells)[0] for title in titles]
    rows = [heads, ["─" * cells] * len(titles), *zip_longest(*wrapped, fillvalue="")]
    return [_GAP.join(_padded(text, cells) for text in row).rstrip() for row in rows]


def wrap(text: str, cells: int) -> list[str]:
    """Break a text into lines of at most `cells` cells, at spaces where there are any."""
    lines: list[str] = []
    for paragraph in text.expandtabs(4).split("\n"):
        line = paragraph
        while num_cells(line) > cells:
            cut = _cut(line, cells)
            lines.append(line[:cut].rstrip(" "))
            line = line[cut:].lstrip(" ")
        if line or not paragraph:
            lines.append(line)
    return lines


def num_cells(text: str) -> int:
    """How many cells of a terminal a text takes: two for wide characters, none for accents."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(char) for char in text)


class LiveColumns:
    """Draws columns over what it drew before.

    What is taller than the terminal cannot be drawn over, so only its last lines are shown until
    `finish`, which leaves the whole behind.
    """

    def __init__(
        self, titles: Sequence[str], *, write: Callable[[str], object], width: int, height: int
    ) -> None:
        self._titles = titles
        self._write = write
        self._width = width
        self._max_lines = max(height - 1, 4)
        self._num_drawn = 0

    def draw(self, texts: Sequence[str]) -> None:
        """Show the texts so far; the titles stay in sight."""
        lines = columns(self._titles, texts, width=self._width)
        if len(lines) > self._max_lines:
            lines = lines[:2] + lines[len(lines) - self._max_lines + 2 :]
        self._replace(lines)

    def finish(self, texts: Sequence[str]) -> None:
        """Show the texts whole."""
        self._replace(columns(self._titles, texts, width=self._width))

    def _replace(self, lines: list[str]) -> None:
        # up to the first line that was drawn, and clear from there on
        back = f"\x1b[{self._num_drawn}A\r\x1b[J" if self._num_drawn else ""
        self._write(back + "\n".join(lines) + "\n")
        self._num_drawn = len(lines)


def _cut(line: str, cells: int) -> int:
    """Where to break a line that is too long: after the last space that fits, else where it must."""
    taken, end = 0, 0
    for char in line:
        taken += _cells_of(char)
        if taken > cells:
            break
        end += 1
    space = line.rfind(" ", 0, end + 1)
    return space + 1 if space > 0 else max(end, 1)


def _cells_of(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def _padded(text: str, cells: int) -> str:
    return text + " " * (cells - num_cells(text))
