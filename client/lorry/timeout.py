"""How long a call may take, in total and while waiting for single things."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeout:
    """Limits in seconds; None means none.

    `total` covers the whole call: queueing, every attempt, the waits between them, every token.
    `connect` limits making one connection. `first_token` (from the start of the call) and `idle`
    (between two reads; keep-alive comments count) need a stream: `generate` streams underneath when
    one of them is set.
    """

    total: float | None = 600.0
    connect: float | None = 30.0
    first_token: float | None = None
    idle: float | None = None

    def __post_init__(self) -> None:
        for name in ("total", "connect", "first_token", "idle"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"timeout {name} is {value}; it must be a positive number")

    @property
    def needs_stream(self) -> bool:
        return self.first_token is not None or self.idle is not None
