"""Which threads come first where there are more of them than cores."""

from __future__ import annotations

import os
import sys
import threading

NICENESS = 5


def give_way(niceness: int = NICENESS) -> None:
    """Let every other thread of the process that wants a core have it before the calling one.

    Threads that compute without a pause would keep the event loop waiting for a slice of the
    system's scheduler, some milliseconds. On Linux niceness is a thread's own; elsewhere it is the
    process's, and nothing is changed.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # it may not go down again
        lowest = max(niceness, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, lowest)
