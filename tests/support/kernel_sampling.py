"""The compiled sampler on its own, over given logits.

Shape legend: N logits rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lorry_server.engine.plan import LogitsPlan, StepResult
from lorry_server.kernels.cpu import tape as t
from lorry_server.runner.compiled.logits_rows import LogitsRows
from lorry_server.runner.compiled.rungs import sampler_address
from lorry_server.runner.sampler import sample
from tests.support.kernel_tape import KernelTape, plan_of_rows
from tests.support.twin_engine import kernels

MAX_ROWS = 128  # of a tape


def add_sampling(tape: KernelTape, logits_NV: Tensor) -> LogitsRows:
    """Add the operation to a tape; what it gives is filled before a step and has the result after."""
    kernels()  # the sampler is loaded with them
    logits = tape.floats(logits_NV)
    rows = LogitsRows(tape.arena, max_rows=len(logits_NV))
    tape.add(
        t.SAMPLE,
        {
            t.SAMPLE_X: logits.values,
            t.SAMPLE_LD_X: logits.stride,
            t.SAMPLE_SIZE: logits.size,
            t.SAMPLE_BLOCK: rows.block,
            t.SAMPLE_CODE: sampler_address(),
        },
        rows=t.LOGITS_ROWS,
    )
    return rows


def sample_compiled(logits_NV: Tensor, plan: LogitsPlan, *, num_threads: int = 1) -> StepResult:
    """As `runner.sampler.sample`, but that the logits stay."""
    num_rows = len(logits_NV)
    assert num_rows <= MAX_ROWS, f"{num_rows} rows, a tape has {MAX_ROWS}"
    tape = KernelTape(max_rows=MAX_ROWS)
    rows = add_sampling(tape, logits_NV)
    rows.fill(plan)
    tape.compute(plan_of_rows(num_rows), rows=range(num_rows), num_threads=num_threads)
    return rows.result()


def assert_same_result(logits_NV: Tensor, plan: LogitsPlan, *, num_threads: int = 1) -> StepResult:
    """Compiled and reference give the same tokens, and logprobs to the bit."""
    expected = sample(logits_NV.clone(), plan)
    result = sample_compiled(logits_NV, plan, num_threads=num_threads)
    np.testing.assert_array_equal(result.status_N, expected.status_N)
    np.testing.assert_array_equal(result.token_ids_N, expected.token_ids_N)
    np.testing.assert_array_equal(result.top_ids_NK, expected.top_ids_NK)
    assert result.logprobs_N.tobytes() == expected.logprobs_N.tobytes()
    assert result.top_logprobs_NK.tobytes() == expected.top_logprobs_NK.tobytes()
    return result
