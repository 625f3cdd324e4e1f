"""Module paths: the nearest layer to a name that no layer has, and many names as a few lines."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_NUMBERED = re.compile(
    r"(?P<prefix>.*?)(?P<stack>layers|h|blocks?)\.(?P<index>\d{1,6})\.(?P<rest>.+)"
)
_SIMILAR = 0.6  # difflib's measure


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A module of an adapter that the model does not have, and what its author may have meant."""

    module: str
    nearest: str | None
    hint: str


@dataclass(frozen=True, slots=True)
class ModuleGroup:
    """Modules that are alike: `names` in each of `layers`, written "0-29" ("" where no number is)."""

    layers: str
    names: tuple[str, ...]
    rank: int
    scaling: float | None

    def __str__(self) -> str:
        where = f"layers {self.layers}: " if self.layers else ""
        scaling = "" if self.scaling is None else f" scaling {self.scaling:g}"
        return f"{where}{', '.join(self.names)} rank {self.rank}{scaling}"


@dataclass(frozen=True, slots=True)
class _Path:
    """`prefix` + "layers" + `index` + `rest`; a path without a number is all rest."""

    prefix: str
    index: int | None
    rest: str

    @classmethod
    def of(cls, module: str) -> _Path:
        found = _NUMBERED.fullmatch(module)
        if found is None:
            return cls("", None, module)
        return cls(found["prefix"], int(found["index"]), found["rest"])


class LayerNames:
    """A model's module paths, to find the nearest of."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._by_rest: dict[str, dict[int | None, str]] = defaultdict(dict)
        self._prefix = ""
        for module in modules:
            path = _Path.of(module)
            self._by_rest[path.rest][path.index] = module
            if path.index is not None:
                self._prefix = path.prefix

    def explain(self, module: str) -> Unmatched:
        """Why `module`, which is none of these, is not, and the layer that it may stand for."""
        path = _Path.of(module)
        rest, reasons = path.rest, []
        if rest not in self._by_rest:
            similar = self._similar(path)
            if similar is None:
                return Unmatched(module, None, f"this model has no {_short(rest)}")
            reasons.append(f"this model has no {_short(rest)}; it has {similar!r}")
            rest = similar
        at = self._by_rest[rest]
        if path.index is not None and path.prefix != self._prefix:
            reasons.append(
                f"its layers are called {path.prefix + 'layers'!r}, "
                f"this model's {self._prefix + 'layers'!r}"
            )
        nearest = at.get(path.index)
        if nearest is None:
            numbers = [index for index in at if index is not None]
            if numbers and path.index is not None:
                reasons.append(
                    f"this model has layers {min(numbers)} to {max(numbers)}, "
                    f"not one with the number {path.index}"
                )
            nearest = at[min(at, key=lambda index: abs((index or 0) - (path.index or 0)))]
        return Unmatched(module, nearest, "; ".join(reasons) or f"this model calls it {nearest!r}")

    def _similar(self, path: _Path) -> str | None:
        # A path with prefixes that hide no number, as "model.lm_head", ends in what it means.
        ending = next((rest for rest in self._by_rest if path.rest.endswith(f".{rest}")), None)
        if ending is not None:
            return ending
        found = difflib.get_close_matches(
            path.rest[:128], list(self._by_rest), n=1, cutoff=_SIMILAR
        )
        return found[0] if found else None


def group_modules(
    facts: Mapping[str, tuple[int, float | None]],
) -> tuple[ModuleGroup, ...]:
    """Collapse modules, each with its rank and scaling, into groups of those that are alike."""
    indices: dict[tuple[str, int, float | None], list[int]] = defaultdict(list)
    for module, (rank, scaling) in facts.items():
        path = _Path.of(module)
        found = indices[path.rest, rank, scaling]
        if path.index is not None:
            found.append(path.index)
    names: dict[tuple[str, int, float | None], list[str]] = defaultdict(list)
    for (rest, rank, scaling), numbers in indices.items():
        names[_ranges(sorted(set(numbers))), rank, scaling].append(rest)
    return tuple(
        ModuleGroup(layers, tuple(sorted(rests)), rank, scaling)
        for (layers, rank, scaling), rests in sorted(names.items(), key=lambda item: item[1])
    )


def natural_order(module: str) -> list[tuple[bool, int, str]]:
    """A key to sort names by: layer 2 comes before layer 10."""
    return [
        (part.isdecimal(), int(part) if part.isdecimal() and len(part) < 10 else 0, part)
        for part in module.split(".")
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` as "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _short(name: str) -> str:
    return repr(name if len(name) <= 96 else name[:96] + "...")
