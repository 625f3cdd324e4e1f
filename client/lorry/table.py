"""Small tables of text and of HTML, for the results that people look at."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """Columns of equal width, the first `num_left` to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < num_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """The same as a table that takes the colours of the page it is on."""

    def line(cells: Sequence[str], tag: str) -> str:
        parts = [
            f'<{tag} style="padding:2px 9px;text-align:{"left" if column < num_left else "right"}">'
            f"{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
