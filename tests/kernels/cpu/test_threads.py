"""Threads that share a step: more of them than cores, late ones, many steps, the end."""

from __future__ import annotations

import ctypes
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from lorry_server.kernels.cpu import tape as t
from lorry_server.runner.compiled.buffers import FloatRows
from lorry_server.runner.compiled.records import Field
from tests.support.kernel_product import (
    pack,
    product_fields,
    random_linear,
    random_rows,
    results_of,
    unpadded,
)
from tests.support.kernel_sampling import add_sampling
from tests.support.kernel_tape import (
    KernelTape,
    RunningTape,
    needs_kernels,
    plan_of_rows,
    read_floats,
    same_bits,
)
from tests.support.logits_plans import make_plan

pytestmark = needs_kernels
NUM_TOKENS = 17
NUM_PHASES = 2


class Product:
    """Quantize and multiply: two phases, with the result and what it must be."""

    def __init__(self) -> None:
        linear = random_linear(96, [300])
        self.x_TI = random_rows(NUM_TOKENS, 96, seed=1)
        self.expected_TO: Tensor = linear(self.x_TI)
        self.tape = KernelTape()
        self._packed = pack(linear, self.tape.arena)
        rows = self.tape.quantized(self.x_TI)
        self._y: FloatRows = results_of(self._packed, self.tape, NUM_TOKENS)
        target: dict[int, Field] = {t.MODE: t.STORE, t.Y: self._y.values, t.LD_Y: self._y.stride}
        self.tape.add(t.MATMUL, product_fields(self._packed, rows) | target)
        self.plan = plan_of_rows(NUM_TOKENS)

    def compute(self, running: RunningTape) -> bool:
        """One step; whether it made all of the result."""
        self._y.values[:] = np.nan
        running.step(self.plan)
        y_TO = unpadded(self._packed, read_floats(self._y, NUM_TOKENS))
        return same_bits(y_TO, self.expected_TO)


def word(running: RunningTape, offset: int) -> int:
    return int(running.block.words[offset // t.WORD_BYTES])


def int64_at(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def counters(running: RunningTape, offset: int) -> list[tuple[int, int]]:
    """Of each phase, the number of its step and the count."""
    first = word(running, offset)
    values = [int64_at(first + phase * t.COUNTER_BYTES) for phase in range(NUM_PHASES)]
    return [(value >> 32, value & 0xFFFFFFFF) for value in values]


def wake(running: RunningTape, worker: int) -> None:
    """Let a worker look for work."""
    semaphore = word(running, t.SEMAPHORES) + worker * t.SEMAPHORE_BYTES
    assert ctypes.CDLL(None).sem_post(ctypes.c_void_p(semaphore)) == 0


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(num_threads: int) -> None:
    product = Product()

    with product.tape.started(num_threads=num_threads) as running:
        results = [product.compute(running) for _ in range(20)]

    assert all(results)


def test_threads_that_let_the_event_loop_go_on_give_the_same_bits() -> None:
    product = Product()
    # as if a busy loop had been set aside on core 0, and then on core 1
    core = np.zeros(1, np.uint64)
    activity = np.array([1, core.ctypes.data], np.int64)

    with product.tape.started(num_threads=3) as running:
        running.block.set(t.LOOP_ACTIVITY, activity.ctypes.data)
        on_core_0 = product.compute(running)
        core[0] = 1 << 32
        on_core_1 = product.compute(running)

    assert on_core_0
    assert on_core_1


def test_two_thousand_steps_leave_the_counters_consistent() -> None:
    product = Product()

    with product.tape.started(num_threads=3) as running:
        for number in range(1, 2001):
            running.step(product.plan)

            expected = [
                (number, int64_at(word(running, t.NUM_CHUNKS) + t.WORD_BYTES * phase))
                for phase in range(NUM_PHASES)
            ]
            assert min(expected) > (number, 1)
            assert counters(running, t.CLAIMED) == expected
            assert counters(running, t.DONE) == expected
        assert word(running, t.EPOCH) == 2000
        assert product.compute(running)


def test_a_worker_that_sleeps_through_a_step_is_not_waited_for() -> None:
    product = Product()

    with product.tape.started(num_threads=3) as running:
        running.block.set(t.NUM_WORKERS, 1)  # the others are not woken
        is_made_alone = product.compute(running)
        running.block.set(t.NUM_WORKERS, 3)
        is_made_together = product.compute(running)

    assert is_made_alone
    assert is_made_together


def test_a_worker_that_wakes_when_the_step_is_over_touches_nothing() -> None:
    product = Product()

    with product.tape.started(num_threads=3) as running:
        assert product.compute(running)
        before = counters(running, t.CLAIMED), counters(running, t.DONE)
        for worker in (0, 1, 1):
            wake(running, worker)
        running.close()  # they end, wherever they were

        assert (counters(running, t.CLAIMED), counters(running, t.DONE)) == before


def test_workers_that_wake_at_any_time_do_no_harm() -> None:
    product = Product()

    with product.tape.started(num_threads=3) as running:
        for number in range(200):
            wake(running, number % 2)
            assert product.compute(running)


def test_a_phase_without_rows_is_passed_over() -> None:
    tape = KernelTape()
    rows = add_sampling(tape, torch.zeros(1, 20))
    rows.fill(make_plan(1, num_logprobs=0))

    tape.compute(plan_of_rows(3), rows=(), num_threads=2)

    assert rows.result().logprobs_N.tolist() == [0.0]


def test_closing_ends_the_threads() -> None:
    product = Product()
    before = set(threading.enumerate())

    with product.tape.started(num_threads=4) as running:
        assert len(set(threading.enumerate()) - before) == 4
        running.step(product.plan)

    assert set(threading.enumerate()) <= before  # of others some may have ended
