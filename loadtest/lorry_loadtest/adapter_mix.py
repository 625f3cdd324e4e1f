"""Which adapter the next request asks for: weights over names, with a share for the base model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from lorry_loadtest.churn import Churn, parse_churn


@dataclass(frozen=True, slots=True)
class AdapterMix:
    """Names with positive weights; the name None is the base model.

    With `churn` the weights move on to other names as the run goes on. `cold` names are not in the
    weights: `cold_share` of the requests, evenly spread over the stream, go to them in turn, so
    that each was left alone for as long as possible.
    """

    names: tuple[str | None, ...]
    weights: tuple[float, ...]
    churn: Churn | None = None
    cold: tuple[str, ...] = ()
    cold_share: float = 0.0

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.weights):
            raise ValueError("an adapter mix needs at least one name, and one weight for each")
        for name, weight in zip(self.names, self.weights, strict=True):
            if not weight > 0:
                raise ValueError(f"the weight of {name or 'the base model'} is {weight}, not > 0")
        if not 0.0 <= self.cold_share < 1.0:
            raise ValueError(f"the cold share is {self.cold_share}, not from 0 to less than 1")

    def draw(
        self,
        rng: random.Random,
        *,
        index: int = 0,
        at_ns: int | None = None,
        number: int | None = None,
    ) -> str | None:
        """The adapter of request `index`, which is to arrive at `at_ns`.

        Where one draw is for several requests, `index` and `at_ns` are of the first of them, and
        the draw is the `number`-th.
        """
        pick = rng.random() * sum(self.weights)
        if self.cold:
            place = index if number is None else number
            turn = int(place * self.cold_share)
            if int((place + 1) * self.cold_share) > turn:
                return self.cold[turn % len(self.cold)]
        place = next(k for k, up_to in enumerate(accumulate(self.weights)) if pick < up_to)
        shift = self.churn.shift_at(index=index, at_ns=at_ns) if self.churn else 0
        return self.names[(place + shift) % len(self.names)]

    def share_of(self, name: str | None) -> float:
        """The wanted share of `name` before any churn, 0 when it is not in the mix."""
        if name in self.cold:
            return self.cold_share / len(self.cold)
        weights = dict(zip(self.names, self.weights, strict=True))
        return (1 - self.cold_share) * weights.get(name, 0.0) / sum(self.weights)

    @property
    def all_names(self) -> tuple[str | None, ...]:
        return (*self.names, *self.cold)


class Adapters:
    """Mixes by name, for locustfiles: `Adapters.zipf(["sql", "legal", None], s=1.1)`."""

    @staticmethod
    def uniform(names: Sequence[str | None]) -> AdapterMix:
        return AdapterMix(tuple(names), (1.0,) * len(names))

    @staticmethod
    def weighted(weights: Mapping[str | None, float]) -> AdapterMix:
        return AdapterMix(tuple(weights), tuple(weights.values()))

    @staticmethod
    def zipf(
        names: Sequence[str | None], *, s: float = 1.0, churn: str | None = None
    ) -> AdapterMix:
        """The k-th name has weight 1/k^s. `churn` as `parse_churn` reads it."""
        weights = tuple(1.0 / rank**s for rank in range(1, len(names) + 1))
        return AdapterMix(tuple(names), weights, parse_churn(churn) if churn else None)

    @staticmethod
    def noisy(names: Sequence[str | None], *, neighbour: str | None, factor: float) -> AdapterMix:
        """One name asks `factor` times as often as each of the others."""
        if neighbour not in names:
            raise ValueError(f"the noisy neighbour {neighbour!r} is not one of {list(names)}")
        weights = tuple(factor if name == neighbour else 1.0 for name in names)
        return AdapterMix(tuple(names), weights)

    @staticmethod
    def cold_warm(warm: Sequence[str | None], cold: Sequence[str], *, share: float) -> AdapterMix:
        """`share` of the requests go to the `cold` names, each as seldom as possible."""
        if not cold:
            raise ValueError("a mix with a cold share needs at least one cold adapter")
        return replace(Adapters.uniform(warm), cold=tuple(cold), cold_share=share)


def mix_of(
    adapters: AdapterMix | Mapping[str | None, float] | Sequence[str | None],
    *,
    base_share: float = 0.0,
) -> AdapterMix:
    """A mix as it is, weights as given, or equal ones; `base_share` go to the base model.

    Without any adapter every request goes to the base model.
    """
    if not 0.0 <= base_share <= 1.0:
        raise ValueError(f"the base share is {base_share}, not between 0 and 1")
    if isinstance(adapters, AdapterMix):
        if base_share > 0.0:
            raise ValueError("a base share stands in the adapter mix itself: the name None")
        return adapters
    equal: dict[str | None, float] = dict.fromkeys(adapters, 1.0)
    weights = dict(adapters) if isinstance(adapters, Mapping) else equal
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


def parse_mix(text: str, names: Sequence[str]) -> AdapterMix:
    """Reads `uniform`, `zipf:S`, `zipf:S:rotate:30s`, `noisy:NAME:FACTOR` or `cold:SHARE:WARM`.

    `cold:0.1:2` sends a tenth of the requests to all but the first two names. ValueError says what
    was wrong.
    """
    try:
        match text.split(":", 2):
            case ["uniform"]:
                return Adapters.uniform(names)
            case ["zipf", s]:
                return Adapters.zipf(names, s=float(s))
            case ["zipf", s, churn]:
                return Adapters.zipf(names, s=float(s), churn=churn)
            case ["noisy", name, factor]:
                return Adapters.noisy(names, neighbour=name, factor=float(factor))
            case ["cold", share, num_warm]:
                warm = int(num_warm)
                return Adapters.cold_warm(names[:warm], names[warm:], share=float(share))
    except ValueError as exc:
        raise ValueError(f"adapter mix {text!r}: {exc}") from exc
    raise ValueError(
        f"adapter mix {text!r} is not uniform, zipf:S, zipf:S:rotate:30s, noisy:NAME:FACTOR or "
        "cold:SHARE:NUM_WARM"
    )
