"""What is sent: every request follows from the seed and its place in the run."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lorry_loadtest.adapter_mix import AdapterMix
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.prompts import FixedPrompts, RandomWords


@dataclass(frozen=True, slots=True)
class Place:
    """Which request of the run: of which level (its number of streams), worker and user."""

    level: int
    worker: int
    user: int
    request: int


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A request before it is sent; `adapter` None is the base model."""

    place: Place
    prompt: str
    max_tokens: int
    adapter: str | None


@dataclass(frozen=True, slots=True)
class Workload:
    """The seeded source of requests. The same seed and place always give the same request.

    The level is part of the place, so that no level of a sweep repeats the prompts of another
    and finds them in the server's prefix cache.
    """

    seed: int
    adapters: AdapterMix
    prompts: RandomWords | FixedPrompts
    max_tokens: Lengths

    def request_at(self, place: Place) -> PlannedRequest:
        key = f"{self.seed}/{place.level}/{place.worker}/{place.user}/{place.request}"
        rng = random.Random(key)  # text is hashed with SHA-512: the same in every process
        return PlannedRequest(
            place=place,
            adapter=self.adapters.draw(rng),
            max_tokens=self.max_tokens.draw(rng),
            prompt=self.prompts.draw(rng),
        )
