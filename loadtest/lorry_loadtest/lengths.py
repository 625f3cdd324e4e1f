"""How long prompts and answers are: distributions of whole numbers with bounds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Spread = Literal["uniform", "normal", "lognormal"]

_FORMS = "64, 16:96, normal:MEAN:SD:LOW:HIGH or lognormal:MEAN:SIGMA:LOW:HIGH"


@dataclass(frozen=True, slots=True)
class Lengths:
    """A whole number from `low` to `high`, both included; what falls outside is drawn again.

    `uniform` needs nothing more. `normal` has the mean and the standard deviation `sigma`. For
    `lognormal`, `mean` is that of the lengths themselves and `sigma` the deviation of their natural
    logarithm. Bounds move the mean of what is drawn.
    """

    low: int
    high: int
    spread: Spread = "uniform"
    mean: float = 0.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"lengths need 1 <= low <= high, not {self.low}:{self.high}")
        if self.spread == "uniform":
            return
        if not self.low <= self.mean <= self.high:
            raise ValueError(
                f"the mean length {self.mean:g} is not between {self.low} and {self.high}"
            )
        if not self.sigma > 0:
            raise ValueError(f"the spread of lengths is {self.sigma:g}, not > 0")

    def __str__(self) -> str:
        if self.spread != "uniform":
            return f"{self.spread}:{self.mean:g}:{self.sigma:g}:{self.low}:{self.high}"
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"

    @classmethod
    def const(cls, length: int) -> Lengths:
        return cls(length, length)

    @classmethod
    def uniform(cls, lo: int, hi: int) -> Lengths:
        return cls(lo, hi)

    @classmethod
    def normal(cls, *, mean: float, sd: float, lo: int, hi: int) -> Lengths:
        return cls(lo, hi, "normal", mean, sd)

    @classmethod
    def lognormal(cls, *, mean: float, sigma: float, lo: int, hi: int) -> Lengths:
        return cls(lo, hi, "lognormal", mean, sigma)

    def draw(self, rng: random.Random) -> int:
        match self.spread:
            case "uniform":
                return rng.randint(self.low, self.high)
            case "normal":
                return self._within(lambda: rng.gauss(self.mean, self.sigma))
            case "lognormal":
                location = math.log(self.mean) - self.sigma**2 / 2
                return self._within(lambda: rng.lognormvariate(location, self.sigma))

    def _within(self, draw_one: Callable[[], float]) -> int:
        for _ in range(_MOST_DRAWS):
            length = round(draw_one())
            if self.low <= length <= self.high:
                return length
        # bounds so far out in the tail that nothing falls between them
        return min(max(round(self.mean), self.low), self.high)


_MOST_DRAWS = 100


def parse_lengths(text: str) -> Lengths:
    """Reads what `str` of lengths writes; ValueError says what was wrong."""
    parts = text.split(":")
    try:
        match parts:
            case ["normal" | "lognormal" as spread, mean, sigma, low, high]:
                return Lengths(int(low), int(high), spread, float(mean), float(sigma))
            case [low, high]:
                return Lengths(int(low), int(high))
            case [length]:
                return Lengths.const(int(length))
    except ValueError as exc:
        raise ValueError(f"{text!r} is not a length such as {_FORMS}: {exc}") from exc
    raise ValueError(f"{text!r} is not a length such as {_FORMS}")


def lengths_of(value: Lengths | str | int) -> Lengths:
    """As it is, or read from a number or a text."""
    return value if isinstance(value, Lengths) else parse_lengths(str(value))
