"""How often a server is asked whether something is ready by now."""

from __future__ import annotations

from collections.abc import Iterator

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


def pauses_s() -> Iterator[float]:
    """The pauses between two questions: each twice as long as the one before, up to a second."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
