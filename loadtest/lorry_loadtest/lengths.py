"""How long prompts and answers are: constant or evenly spread over a range."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lengths:
    """A whole number drawn evenly from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"lengths need 1 <= low <= high, not {self.low}:{self.high}")

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"

    def draw(self, rng: random.Random) -> int:
        return rng.randint(self.low, self.high)


def parse_lengths(text: str) -> Lengths:
    """Reads `64` or `16:96`; ValueError says what was wrong."""
    low, colon, high = text.partition(":")
    try:
        return Lengths(int(low), int(high if colon else low))
    except ValueError as exc:
        raise ValueError(f"{text!r} is not a length such as 64 or 16:96") from exc
