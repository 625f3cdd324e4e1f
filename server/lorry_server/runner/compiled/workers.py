"""`Workers`: the threads that compute steps together with the engine's own."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lorry_server.engine.thread_priority import give_way
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import address


class Workers:
    """Threads 1 to `num_threads - 1`, asleep in the kernel until a step begins.

    They hold no lock of the interpreter while they compute or sleep. `run(step, thread)` is the
    compiled function.
    """

    def __init__(
        self, step: npt.NDArray[np.int64], *, num_threads: int, run: Callable[[int, int], None]
    ) -> None:
        self._step = step
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._semaphores = np.zeros((num_threads, t.SEMAPHORE_BYTES), np.uint8)
        step[t.SEMAPHORES // t.WORD_BYTES] = address(self._semaphores)
        step[t.NUM_WORKERS // t.WORD_BYTES] = num_threads - 1
        for worker in range(num_threads - 1):
            if self._libc.sem_init(self._semaphore(worker), 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "sem_init failed")
        self._threads = [
            threading.Thread(
                target=_work,
                args=(run, address(step), index),
                name=f"lorry-compute-{index}",
                daemon=True,  # a process that ends without `stop` is not kept alive by them
            )
            for index in range(1, num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; no step may be running."""
        self._step[t.STOP // t.WORD_BYTES] = 1
        for worker in range(len(self._threads)):
            self._libc.sem_post(self._semaphore(worker))
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _semaphore(self, worker: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(address(self._semaphores) + worker * t.SEMAPHORE_BYTES)


def _work(run: Callable[[int, int], None], step: int, thread: int) -> None:
    give_way()
    run(step, thread)
