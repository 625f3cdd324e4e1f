"""Adapter cards as text for a terminal, and as a table for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lorry.types.adapters import AdapterCard

NUM_VERSION_CHARS = 12

_COLUMNS = ("NAME", "STATE", "TIER", "RANK", "SIZE", "PINNED", "RUNNING", "VERSION", "SOURCE")


class AdapterCards(list[AdapterCard]):
    """A list of cards that shows itself as a table, in a terminal and in a notebook."""

    def __repr__(self) -> str:
        return cards_table(self)

    def _repr_html_(self) -> str:
        from lorry.notebook import table_html  # needed in notebooks only

        return table_html(_COLUMNS, [_row(card) for card in self])


def cards_table(cards: Sequence[AdapterCard]) -> str:
    """One line for each card under a line of titles, the columns as wide as they need."""
    if not cards:
        return "the server has no adapters"
    rows = [_COLUMNS, *(_row(card) for card in cards)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def card_details(card: AdapterCard) -> str:
    """Everything that a card says, a line for each thing; what is not known is left out."""
    lines = [(name, _value(value)) for name, value in _fields(card).items()]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines)


def card_line(card: AdapterCard) -> str:
    """A card in one line: what has come of loading it."""
    facts = [card.state]
    if card.rank is not None:
        facts.append(f"rank {card.rank}")
    if card.num_bytes is not None:
        facts.append(size(card.num_bytes))
    if card.pinned:
        facts.append("pinned")
    if card.digest:
        facts.append(f"version {card.digest[:NUM_VERSION_CHARS]}")
    return f"{printable(card.id)}: {printable(', '.join(facts))}"


def size(num_bytes: int) -> str:
    """Bytes in the unit that leaves at most three digits before the point."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def printable(text: str) -> str:
    """The text with a mark for whatever a terminal would obey or break the line at."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _row(card: AdapterCard) -> tuple[str, ...]:
    cells = (
        card.id,
        card.state,
        card.tier or "-",
        "-" if card.rank is None else str(card.rank),
        "-" if card.num_bytes is None else size(card.num_bytes),
        "yes" if card.pinned else "no",
        str(card.requests_in_flight),
        (card.digest or "-")[:NUM_VERSION_CHARS],
        card.source,
    )
    return tuple(printable(cell) for cell in cells)


def _fields(card: AdapterCard) -> dict[str, Any]:
    fields = msgspec.to_builtins(card)
    del fields["object"]
    return {name: value for name, value in fields.items() if value not in (None, [], {})}


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return printable(", ".join(f"{name} {_value(inner)}" for name, inner in value.items()))
    if isinstance(value, list):
        return printable(", ".join(_value(item) for item in value))
    return printable(f"{value:g}" if isinstance(value, float) else str(value))
