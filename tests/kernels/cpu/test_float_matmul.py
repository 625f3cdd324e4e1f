"""Compiled products of floats are close to exact sums, and a row's bits are the same in any batch.

Shape legend: N rows of input, I input and O output features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from lorry_server.kernels.cpu import tape as t
from lorry_server.layers.linear import Linear
from lorry_server.quantization.unquantized import Unquantized
from lorry_server.runner.compiled.buffers import ElementRows, FloatRows
from lorry_server.runner.compiled.packed_linear import pack_linear
from lorry_server.runner.compiled.records import Field
from tests.support.kernel_tape import KernelTape, needs_kernels, plan_of_rows
from tests.support.tiny_engine import CPU
from tests.support.twin_engine import float_kernels, kernels

pytestmark = needs_kernels
SHAPES = [(1, [1]), (31, [33, 2]), (32, [64]), (65, [32, 32, 5]), (200, [96, 1])]
BF16_EPS = 2.0**-8


def random_linear(num_inputs: int, sizes: list[int], dtype: torch.dtype) -> Linear:
    linear = Linear(
        "linear",
        in_features=num_inputs,
        parts=[(str(index), size) for index, size in enumerate(sizes)],
        bias=True,
        scheme=Unquantized(),
        dtype=dtype,
        device=CPU,
    )
    generator = torch.Generator().manual_seed(num_inputs)
    linear.weight.load_rows_(0, torch.randn(sum(sizes), num_inputs, generator=generator))
    assert linear.bias_O is not None
    linear.bias_O.copy_(torch.randn(sum(sizes), generator=generator))
    return linear


def product(x_NI: Tensor, linear: Linear, sizes: list[int]) -> npt.NDArray[np.float32]:
    """What the kernels make of the rows, without the filling of panels."""
    tape = KernelTape()
    packed = pack_linear(linear, sizes, tape.arena)
    rows: FloatRows | ElementRows = tape.floats(x_NI)
    assert packed.element is not None
    assert isinstance(rows, FloatRows)
    if packed.element == t.BFLOAT16:
        source: dict[int, Field] = {t.NORM_X: rows.values, t.NORM_LD_X: rows.stride}
        rows = ElementRows(
            tape.arena, num_rows=len(x_NI), size=x_NI.shape[1], element=packed.element
        )
        tape.add(t.TO_BFLOAT16, rows.as_input() | source)
    results = FloatRows(tape.arena, num_rows=len(x_NI), size=packed.num_outputs)
    tape.add(
        t.FLOAT_MATMUL,
        rows.as_input()
        | {
            t.ELEMENT: packed.element,
            t.ROUNDS: int(packed.element == t.BFLOAT16),
            t.W: packed.w,
            t.PANEL_BYTES: packed.panel_bytes,
            t.NUM_PANELS: packed.num_panels,
            t.PANELS_PER_CHUNK: 2,
            t.BIAS: packed.bias,
            t.MODE: t.STORE,
            t.Y: results.values,
            t.LD_Y: results.stride,
        },
    )
    kernels()
    with tape.started(num_threads=2) as running:
        running.block.set(t.SECOND_PART, float_kernels())
        running.step(plan_of_rows(len(x_NI)))
    columns = np.concatenate(
        [
            packed.column_of(index) + np.arange(part.stop - part.start)
            for index, part in enumerate(packed.parts)
        ]
    )
    return results.values.reshape(len(x_NI), -1)[:, columns]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(("num_inputs", "sizes"), SHAPES)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 6, 7, 13])
def test_products_are_close_to_exact_sums(
    num_rows: int, num_inputs: int, sizes: list[int], dtype: torch.dtype
) -> None:
    linear = random_linear(num_inputs, sizes, dtype)
    x_NI = torch.randn(num_rows, num_inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    w_OI, bias_O = linear.weight.dequantize(), linear.bias_O
    assert bias_O is not None
    sums_NO = x_NI.double() @ w_OI.double().T
    magnitudes_NO = x_NI.double().abs() @ w_OI.double().abs().T
    expected_NO = sums_NO + bias_O.double()

    results_NO = product(x_NI.float(), linear, sizes)

    # each of the sum's roundings, and of bfloat16 those of the product and of the bias
    allowed_NO = magnitudes_NO * (num_inputs + 2) * 2.0**-24
    if dtype == torch.bfloat16:
        allowed_NO += (sums_NO.abs() + expected_NO.abs()) * BF16_EPS
    else:
        allowed_NO += expected_NO.abs() * 2.0**-23
    assert (np.abs(results_NO - expected_NO.numpy()) <= allowed_NO.numpy()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_a_row_has_the_same_bits_in_any_batch(dtype: torch.dtype) -> None:
    sizes = [40, 30]
    x_NI = torch.randn(17, 100, generator=torch.Generator().manual_seed(2)).to(dtype).float()

    all_NO = product(x_NI, random_linear(100, sizes, dtype), sizes)

    for start, stop in ((0, 1), (4, 6), (3, 6), (2, 7), (9, 17)):
        part_NO = product(x_NI[start:stop], random_linear(100, sizes, dtype), sizes)
        assert part_NO.tobytes() == all_NO[start:stop].tobytes()
