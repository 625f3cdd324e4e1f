"""How long an attempt may take before it is counted as failed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: for connecting, to the first event, between two events, and for all of it."""

    connect_s: float = 5.0
    first_event_s: float = 60.0
    stall_s: float = 30.0
    total_s: float = 300.0
