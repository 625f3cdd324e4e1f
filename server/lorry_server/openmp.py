"""How torch's compute threads wait for each other."""

from __future__ import annotations

import os


def wait_without_spinning() -> None:
    """Let idle compute threads sleep; call before torch is imported, which reads this once.

    By default they spin. Beside the event loop, or a load generator on the same cores, a thread
    that spins keeps its partner from running, and every parallel region takes milliseconds.
    An operator's own setting is left alone.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
