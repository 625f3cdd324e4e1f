"""Which colour an adapter has, the same in every chart and table of a page."""

from __future__ import annotations

from collections.abc import Iterable

NUM_COLORS = 8


def color_classes(adapters: Iterable[str | None]) -> dict[str | None, str]:
    """CSS classes by name: eight colours in the order of names, one grey for all others.

    The base model (None) has a colour of its own.
    """
    names = sorted(name for name in set(adapters) if name is not None)
    classes: dict[str | None, str] = {
        name: f"a{number}" if number < NUM_COLORS else "other" for number, name in enumerate(names)
    }
    classes[None] = "base"
    return classes
