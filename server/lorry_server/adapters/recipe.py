"""`Recipe`: several adapters that a request wants as one, and the two ways to write it down.

    recipe = sum | method "(" sum ("," option)* ")"
    sum    = part ("+" part)*
    part   = name ["@" version] ["*" weight]
    option = "density=" number | "majority_sign_method=" word | "seed=" integer

`sql*0.7+legal*0.3` is text; LoRAX's `merged_adapters` is an object. What no adapter's name can hold
(`+`, `*`, a bracket after a method) tells a recipe from a name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypedDict

from lorry_server.lora.names import check_adapter_name

MAX_PARTS = 8
MAX_SEED = 2**64 - 1
MAX_TEXT_CHARS = 4096
MAJORITY_SIGN_METHODS = ("total", "frequency")

# Which options each method has. Only `linear` has none.
METHODS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "ties": ("density", "majority_sign_method"),
    "dare_linear": ("density", "seed"),
    "dare_ties": ("density", "majority_sign_method", "seed"),
    "magnitude_prune": ("density",),
}

_DIGEST_BYTES = 16
_MAX_SHOWN_CHARS = 64

_VERSION = re.compile(r"[0-9a-f]{4,64}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[0-9]{1,20}")
_CALL = re.compile(rf"\s*(?P<method>{'|'.join(METHODS)})\s*\(")
# A weight such as 1e+3 holds a plus that does not end its part.
_PART = re.compile(
    r"(?P<adapter>[^*+]*)(?P<star>\*\s*(?P<weight>[+-]?[0-9.]+[eE][+-]?[0-9]+\s*|[+-]?[^*+]*))?"
)


@dataclass(frozen=True, slots=True)
class RecipePart:
    """`adapter` is a name, or a name and a version of it (`sql@3f2a`)."""

    adapter: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        name, at, version = self.adapter.partition("@")
        check_adapter_name(name)
        if at and _VERSION.fullmatch(version) is None:
            raise ValueError(
                f"version {_shown(version)} of adapter {_shown(name)} is not the beginning of a "
                "digest: 4 to 64 characters of 0-9 and a-f"
            )
        if not math.isfinite(self.weight):
            raise ValueError(f"the weight of adapter {_shown(self.adapter)} is not a finite number")

    def __str__(self) -> str:
        return self.adapter if self.weight == 1.0 else f"{self.adapter}*{self.weight!r}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Parts in the order in which they were given, and what is made of them.

    An option is None exactly where the method has none of that name. `density` is the fraction of
    each matrix's values that is kept. `str` is text that `parse_recipe` reads as the same recipe.
    Raises ValueError with a sentence that names the wrong part or option.
    """

    parts: tuple[RecipePart, ...]
    method: str = "linear"
    density: float | None = None
    majority_sign_method: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"there is no merge method {_shown(self.method)}; there are {', '.join(METHODS)}"
            )
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise ValueError(f"a recipe has 1 to {MAX_PARTS} adapters, not {len(self.parts)}")
        for option in ("density", "majority_sign_method", "seed"):
            is_given, is_taken = getattr(self, option) is not None, option in METHODS[self.method]
            if is_given and not is_taken:
                raise ValueError(f"merge method {self.method} has no {option}")
            if is_taken and not is_given:
                raise ValueError(f"merge method {self.method} needs a {option}")
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(
                f"density is {self.density!r}; it is the fraction of values that is kept, "
                "more than 0 and at most 1"
            )
        if self.majority_sign_method not in (None, *MAJORITY_SIGN_METHODS):
            raise ValueError(
                f"there is no majority sign method {_shown(self.majority_sign_method)}; "
                f"there are {', '.join(MAJORITY_SIGN_METHODS)}"
            )
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must be 0 to {MAX_SEED}")

    def __str__(self) -> str:
        parts = "+".join(str(part) for part in self.parts)
        if self.method == "linear":
            # one part of weight 1 would read as a name
            return parts if len(self.parts) > 1 or "*" in parts else f"{parts}*1"
        options = [f"{name}={getattr(self, name)}" for name in METHODS[self.method]]
        return f"{self.method}({','.join([parts, *options])})"

    @property
    def adapters(self) -> tuple[str, ...]:
        """What is to be looked up, in order: a name, or a name and a version, of each part."""
        return tuple(part.adapter for part in self.parts)

    def digest(self, parts: Sequence[str]) -> str:
        """The identity of the result: 32 hexadecimal digits made of `parts`, the parts' digests.

        What the parts are called does not go in, so a name that has moved makes another digest and
        a second name for the same weights does not.
        """
        weighted = [(digest, part.weight) for digest, part in zip(parts, self.parts, strict=True)]
        contents = [weighted, self.method, self.density, self.majority_sign_method, self.seed]
        return blake2b(
            json.dumps(contents).encode(), digest_size=_DIGEST_BYTES, person=b"lorry-recipe"
        ).hexdigest()


def parse_recipe(text: str) -> Recipe | None:
    """Read a recipe's text; None for one that is a name, with a version or without.

    Raises ValueError with a sentence that names what is wrong.
    """
    call = _CALL.match(text)
    if call is None and "+" not in text and "*" not in text:
        return None
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"a recipe has at most {MAX_TEXT_CHARS} characters, not {len(text)}")
    if call is None:
        return Recipe(_parse_sum(text))
    inside, bracket, behind = text[call.end() :].rpartition(")")
    if not bracket or behind.strip():
        raise ValueError(f"recipe {_shown(text)} does not end with ')'")
    parts, *options = inside.split(",")
    return _recipe(call["method"], _parse_sum(parts), **_parse_options(options))


def merged_recipe(
    *,
    ids: Sequence[str],
    weights: Sequence[float] | None = None,
    merge_strategy: str | None = None,
    density: float | None = None,
    majority_sign_method: str | None = None,
    seed: int | None = None,
) -> Recipe:
    """The recipe of LoRAX's `merged_adapters`, whose fields these are; `seed` is ours.

    No weights, or an empty list, are weights of 1. LoRAX's clients always send a density and a
    majority sign method, so they are passed over where the strategy has none.
    """
    if not ids:
        raise ValueError("at least one adapter ID must be provided when setting `adapters`")
    if len(ids) > MAX_PARTS:
        raise ValueError(f"a recipe has 1 to {MAX_PARTS} adapters, not {len(ids)}")
    if weights and len(weights) != len(ids):
        raise ValueError("number of adapter IDs must match number of adapter weights")
    method = "linear" if merge_strategy is None else merge_strategy
    if majority_sign_method not in (None, *MAJORITY_SIGN_METHODS):
        raise ValueError(
            f"`majority_sign_method` must be one of {', '.join(MAJORITY_SIGN_METHODS)}. "
            f"Given: {_shown(majority_sign_method)}"
        )
    if density is not None and not 0 <= density <= 1:
        raise ValueError(f"`density` must be >= 0.0 and <= 1.0. Given: {density!r}")
    taken = METHODS.get(method, ())
    parts = [
        RecipePart(adapter.strip(), _plain(weight))
        for adapter, weight in zip(ids, weights or [1.0] * len(ids), strict=True)
    ]
    return _recipe(
        method,
        tuple(parts),
        density=density if "density" in taken else None,
        majority_sign_method=majority_sign_method if "majority_sign_method" in taken else None,
        seed=seed,
    )


def _recipe(
    method: str,
    parts: tuple[RecipePart, ...],
    *,
    density: float | None = None,
    majority_sign_method: str | None = None,
    seed: int | None = None,
) -> Recipe:
    """A recipe with the defaults of the options that have one; a density has none."""
    taken = METHODS.get(method, ())
    if majority_sign_method is None and "majority_sign_method" in taken:
        majority_sign_method = "total"
    if seed is None and "seed" in taken:
        seed = 0
    return Recipe(parts, method, density, majority_sign_method, seed)


def _parse_sum(text: str) -> tuple[RecipePart, ...]:
    parts: list[RecipePart] = []
    position = 0
    while True:
        match = _PART.match(text, position)
        assert match is not None  # every piece of it may be empty
        adapter = match["adapter"].strip()
        if not adapter:
            raise ValueError(
                f"adapter {len(parts) + 1} of recipe {_shown(text)} has no name; "
                "a recipe is like sql*0.7+legal*0.3"
            )
        weight = 1.0 if match["star"] is None else _parse_weight(match["weight"], adapter)
        parts.append(RecipePart(adapter, weight))
        if len(parts) > MAX_PARTS:
            raise ValueError(f"a recipe has at most {MAX_PARTS} adapters")
        position = match.end()
        if position == len(text):
            return tuple(parts)
        if text[position] != "+":
            raise ValueError(
                f"in recipe {_shown(text)}, a '+' must follow adapter {_shown(adapter)} and its "
                f"weight, not {_shown(text[position:])}"
            )
        position += 1


def _parse_weight(text: str, adapter: str) -> float:
    text = text.strip()
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"the weight {_shown(text)} of adapter {_shown(adapter)} is not a number")
    return _plain(float(text))


class _Options(TypedDict, total=False):
    density: float
    majority_sign_method: str
    seed: int


def _parse_options(options: Sequence[str]) -> _Options:
    parsed: _Options = {}
    for option in options:
        name, _, value = (piece.strip() for piece in option.partition("="))
        if name in parsed:
            raise ValueError(f"the option {name} is there twice")
        if name == "majority_sign_method":
            parsed["majority_sign_method"] = value
        elif name == "density" and _NUMBER.fullmatch(value):
            parsed["density"] = float(value)
        elif name == "seed" and _INTEGER.fullmatch(value):
            parsed["seed"] = int(value)
        elif name in ("density", "seed"):
            raise ValueError(f"the {name} {_shown(value)} is not a number")
        else:
            raise ValueError(f"a recipe has no option {_shown(name)}")
    return parsed


def _plain(weight: float) -> float:
    """The weight as a float, and zero without a sign: one number, one digest."""
    return float(weight) + 0.0


def _shown(text: object) -> str:
    shown = str(text)
    return repr(shown if len(shown) <= _MAX_SHOWN_CHARS else shown[:_MAX_SHOWN_CHARS] + "...")
