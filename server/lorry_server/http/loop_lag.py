"""How late the event loop is: what a handler waits before it gets to run.

A task asks to be woken at fixed moments and notes by how much it was late. Compiled steps use every
core, so this is the number that says whether the server still breathes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL_S = 0.02


async def watch_loop_lag(observe: Callable[[float], object]) -> None:
    """Give `observe` the lag in seconds, 50 times a second, until cancelled.

    The loop's timers are exact to about a millisecond, which is part of what is measured.
    """
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        observe(max(0.0, loop.time() - due_s))
