"""Results as HTML for notebooks: text escaped, and no colours of our own, so that any theme fits."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from lorry.generation import Generation
from lorry.timing import Timing
from lorry.waterfall import duration, facts_of, spans

_FAINT = "opacity:.7"
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:0"


def generation_html(generation: Generation) -> str:
    """The text, and below it in small print what it is of."""
    calls = "".join(
        f'<pre style="{_TEXT}">{html.escape(call.name)}({html.escape(call.arguments)})</pre>'
        for call in generation.tool_calls
    )
    facts = " · ".join(html.escape(fact) for fact in generation.facts())
    return (
        '<div style="border-left:3px solid;padding-left:.7em">'
        f'<pre style="{_TEXT}">{html.escape(generation.text)}</pre>{calls}'
        f'<small style="{_FAINT}">{facts}</small></div>'
    )


def timing_html(timing: Timing) -> str:
    """The waterfall as a table with bars."""
    parts = spans(timing)
    if not parts:
        return f'<small style="{_FAINT}">nothing has been sent yet</small>'
    start_ns = parts[0].start_ns
    total_ns = max(parts[-1].end_ns - start_ns, 1)
    rows = [
        (
            html.escape(part.name),
            duration(part.duration_ns),
            f'<div style="margin-left:{100 * (part.start_ns - start_ns) / total_ns:.2f}%;'
            f"width:{100 * part.duration_ns / total_ns:.2f}%;min-width:1px;height:.8em;"
            'background:currentColor;opacity:.55"></div>',
        )
        for part in parts
    ]
    facts = " · ".join(html.escape(fact) for fact in facts_of(timing))
    return (
        f"{_table((), rows, wide_column=2)}"
        f'<small style="{_FAINT}">{duration(total_ns)} in all'
        f"{' · ' + facts if facts else ''}</small>"
    )


def table_html(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts, which are escaped here."""
    return _table(
        [html.escape(title) for title in titles],
        [[html.escape(cell) for cell in row] for row in rows],
    )


def _table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, wide_column: int | None = None
) -> str:
    cell = 'style="text-align:left;padding:0 .8em 0 0"'
    wide = 'style="text-align:left;width:20em"'
    head = "".join(f"<th {cell}>{title}</th>" for title in titles)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td {wide if index == wide_column else cell}>{text}</td>"
            for index, text in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"
