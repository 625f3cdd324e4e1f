"""`Workers`: the threads that compute steps.

The thread that asks for a step only sleeps meanwhile. It runs Python and holds the interpreter's lock,
for which the event loop may be waiting, so it must not be among those that give way.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lorry_server.engine.loop_activity import LOOP_ACTIVITY
from lorry_server.engine.thread_priority import give_way
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import address


class Workers:
    """`num_threads` threads, asleep in the kernel until a step begins.

    They hold no lock of the interpreter while they compute or sleep. `run(step, worker)` is the
    compiled function.
    """

    def __init__(
        self, step: npt.NDArray[np.int64], *, num_threads: int, run: Callable[[int, int], None]
    ) -> None:
        self._step = step
        self._run = run
        self._libc = ctypes.CDLL(None, use_errno=True)
        # One for each worker, and the last for who waits for them.
        self._semaphores = np.zeros((num_threads + 1, t.SEMAPHORE_BYTES), np.uint8)
        step[t.SEMAPHORES // t.WORD_BYTES] = self._semaphore(0)
        step[t.CALLER // t.WORD_BYTES] = self._semaphore(num_threads)
        step[t.NUM_WORKERS // t.WORD_BYTES] = num_threads
        step[t.LOOP_ACTIVITY // t.WORD_BYTES] = address(LOOP_ACTIVITY)
        for place in range(num_threads + 1):
            if self._libc.sem_init(ctypes.c_void_p(self._semaphore(place)), 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "sem_init failed")
        self._threads = [
            threading.Thread(
                target=_work,
                args=(run, address(step), index),
                name=f"lorry-compute-{index}",
                daemon=True,  # a process that ends without `stop` is not kept alive by them
            )
            for index in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def compute_step(self) -> None:
        """Have the step computed that the block describes; the calling thread sleeps meanwhile."""
        self._run(address(self._step), t.NO_WORKER)

    def stop(self) -> None:
        """End the threads; no step may be running."""
        self._step[t.STOP // t.WORD_BYTES] = 1
        for worker in range(len(self._threads)):
            self._libc.sem_post(ctypes.c_void_p(self._semaphore(worker)))
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _semaphore(self, place: int) -> int:
        return address(self._semaphores) + place * t.SEMAPHORE_BYTES


def _work(run: Callable[[int, int], None], step: int, worker: int) -> None:
    give_way()
    run(step, worker)
