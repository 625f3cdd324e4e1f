"""What the library asks of compositions: to read a recipe, and to make one adapter of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lorry_server.lora.adapter import Adapter


class ParsedRecipe(Protocol):
    """A text such as `sql*0.7+legal*0.3`, read and checked."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """What is to be looked up, in order: names, or names with a version."""
        ...

    def digest(self, parts: Sequence[str]) -> str:
        """The identity of the result, made of the parts' digests."""
        ...


@dataclass(frozen=True, slots=True)
class Composer:
    """`parse` gives None for a text that is a name, and raises ValueError for a bad recipe.

    `compose` runs on a thread of the library's and raises AdapterError.
    """

    parse: Callable[[str], ParsedRecipe | None]
    compose: Callable[[Any, list[Adapter]], Adapter]
