"""Which adapter the next request asks for: weights over names, with a share for the base model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdapterMix:
    """Names with positive weights; the name None is the base model."""

    names: tuple[str | None, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.weights):
            raise ValueError("an adapter mix needs at least one name, and one weight for each")
        for name, weight in zip(self.names, self.weights, strict=True):
            if not weight > 0:
                raise ValueError(f"the weight of {name or 'the base model'} is {weight}, not > 0")

    def draw(self, rng: random.Random) -> str | None:
        return rng.choices(self.names, self.weights)[0]

    def share_of(self, name: str | None) -> float:
        """The wanted share of `name`, 0 when it is not in the mix."""
        return dict(zip(self.names, self.weights, strict=True)).get(name, 0.0) / sum(self.weights)


def mix_of(
    adapters: Mapping[str | None, float] | Sequence[str | None], *, base_share: float = 0.0
) -> AdapterMix:
    """Weights as given, or equal ones; `base_share` of all requests go to the base model.

    Without any adapter every request goes to the base model.
    """
    equal: dict[str | None, float] = dict.fromkeys(adapters, 1.0)
    weights = dict(adapters) if isinstance(adapters, Mapping) else equal
    if not 0.0 <= base_share <= 1.0:
        raise ValueError(f"the base share is {base_share}, not between 0 and 1")
    if base_share == 1.0 or not weights:
        weights = {None: 1.0}
    elif base_share > 0.0:
        others = {name: weight for name, weight in weights.items() if name is not None}
        total = sum(others.values()) / (1.0 - base_share)
        weights = {name: weight / total for name, weight in others.items()}
        weights[None] = base_share
    return AdapterMix(tuple(weights), tuple(weights.values()))


def parse_adapters(text: str) -> dict[str | None, float]:
    """Reads `a,b,c` or `a=3,b=1`; ValueError names the part that is wrong."""
    weights: dict[str | None, float] = {}
    for part in text.split(","):
        name, equals, weight = part.strip().partition("=")
        if not name:
            raise ValueError(f"{text!r} has an empty adapter name")
        if name in weights:
            raise ValueError(f"adapter {name!r} is given twice")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError as exc:
            raise ValueError(f"{weight!r} is not a weight for adapter {name!r}") from exc
    return weights
