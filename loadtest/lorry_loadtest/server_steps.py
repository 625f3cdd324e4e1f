"""The server's step log on the client's clock, and which steps made a span of time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import msgspec

from lorry_loadtest.known_part import known_part


class ServerStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `t_ns` is its end on the clock of the records, `step_ms` how long it took.

    `adapters` is the number of distinct adapters in the batch, `kv_used` of `kv_total` are blocks
    of the cache, and `adapter_attaches` how many adapters were made resident before it.
    """

    index: int
    t_ns: int
    step_ms: float
    batch: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    adapters: int = 0
    running: int = 0
    waiting: int = 0
    kv_used: int = 0
    kv_total: int = 0
    preemptions: int = 0
    adapter_attaches: int = 0

    @property
    def start_ns(self) -> int:
        return self.t_ns - round(self.step_ms * 1e6)


def read_steps(sent: Iterable[dict[str, Any]]) -> tuple[ServerStep, ...]:
    """In the order of time. A step without `t_ns` cannot be placed and is left out.

    msgspec.ValidationError names a field that is wrong.
    """
    steps = [known_part(entry, ServerStep) for entry in sent if entry.get("t_ns") is not None]
    return tuple(sorted(steps, key=lambda step: step.t_ns))


def steps_between(
    steps: tuple[ServerStep, ...], start_ns: int, end_ns: int
) -> tuple[ServerStep, ...]:
    """Those that ran for some of [start_ns, end_ns), in the order of time."""
    first = bisect_left(steps, start_ns, key=lambda step: step.t_ns)
    found = []
    for step in steps[first:]:
        if step.start_ns >= end_ns:
            break
        if step.t_ns > start_ns:
            found.append(step)
    return tuple(found)
