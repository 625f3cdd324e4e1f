from __future__ import annotations

import os
import sys
import threading

import pytest

from lorry_server.engine.thread_priority import NICENESS, give_way


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is the process's elsewhere")
def test_a_thread_that_gives_way_leaves_the_others_where_they_were() -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    after: list[int] = []

    def compute() -> None:
        give_way()
        after.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()

    assert after == [max(before, NICENESS)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
