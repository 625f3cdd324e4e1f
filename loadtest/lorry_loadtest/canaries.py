"""Requests with known answers: they find a server that is fast and wrong.

Decoding is greedy, so an adapter's answer to a prompt is known once the idle server has given it. The
run asks again, in the middle of the load; an answer that differs came of another adapter's weights,
of another request's cache, or of arithmetic that depends on the batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lorry_loadtest.prompts import words

_PER_ADAPTER = 2
_WORDS = 24
_MAX_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Canary:
    """One prompt for one adapter (None: the base model), by the name of both."""

    name: str
    adapter: str | None
    prompt: str
    max_tokens: int = _MAX_TOKENS


def canaries_for(adapters: Sequence[str | None], *, seed: int) -> tuple[Canary, ...]:
    """Two for each adapter, the same prompts for all, so that a swapped adapter cannot hide."""
    prompts = [words(random.Random(f"{seed}/canary/{k}"), _WORDS) for k in range(_PER_ADAPTER)]
    return tuple(
        Canary(f"{adapter or 'base'}/{k}", adapter, prompt)
        for k, prompt in enumerate(prompts)
        for adapter in dict.fromkeys(adapters)
    )
