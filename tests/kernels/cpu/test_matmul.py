"""Compiled products and what is fused to them, beside the linear of the reference."""

from __future__ import annotations

import random

import pytest
import torch

from lorry_server.kernels import exp
from lorry_server.kernels.affine_matmul import quantize_groups
from lorry_server.kernels.cpu import tape as t
from lorry_server.runner.compiled.buffers import QuantizedRows
from lorry_server.runner.compiled.records import Field
from tests.support.kernel_product import (
    SCHEMES,
    pack,
    product_fields,
    random_linear,
    random_rows,
    results_of,
    unpadded,
)
from tests.support.kernel_tape import (
    KernelTape,
    needs_kernels,
    plan_of_rows,
    read_floats,
    read_quantized,
    same_bits,
)

pytestmark = needs_kernels
ROWS = (*range(1, 21), 64, 127)


def random_shape(seed: int) -> tuple[int, list[int]]:
    """Inputs and the sizes of one to three modules, few of them multiples of 32."""
    choose = random.Random(seed)
    sizes = [choose.choice([1, 7, 31, 32, 33, 64, 100]) for _ in range(choose.randint(1, 3))]
    return choose.choice([1, 3, 31, 32, 33, 64, 80, 576]), sizes


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("num_rows", ROWS)
def test_products_have_the_bits_of_the_reference(num_rows: int, scheme: str) -> None:
    seed = 100 * SCHEMES.index(scheme) + num_rows
    in_features, sizes = random_shape(seed)
    linear = random_linear(in_features, sizes, scheme=scheme, bias=seed % 2 == 0, seed=seed)
    x_NI = random_rows(num_rows, in_features, seed=seed)
    expected_NO = linear(x_NI)
    tape = KernelTape()
    packed = pack(linear, tape.arena)
    y = results_of(packed, tape, num_rows)
    rows = tape.quantized(x_NI)
    target: dict[int, Field] = {t.MODE: t.STORE, t.Y: y.values, t.LD_Y: y.stride}
    tape.add(t.MATMUL, product_fields(packed, rows, panels_per_chunk=1 + seed % 3) | target)

    tape.compute(plan_of_rows(num_rows), num_threads=1 + num_rows % 2)

    assert same_bits(unpadded(packed, read_floats(y, num_rows)), expected_NO)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("factor", [1.0, 0.22])
@pytest.mark.parametrize("num_rows", [1, 5, 13])
def test_products_are_added_to_the_residual_stream(
    num_rows: int, factor: float, scheme: str
) -> None:
    linear = random_linear(80, [100], scheme=scheme, bias=True)
    x_NI = random_rows(num_rows, 80, seed=num_rows)
    stream_NO = random_rows(num_rows, 100, seed=1)
    expected_NO = stream_NO + linear(x_NI) * factor
    tape = KernelTape()
    stream = tape.floats(stream_NO)
    target: dict[int, Field] = {
        t.MODE: t.ADD,
        t.Y: stream.values,
        t.LD_Y: stream.stride,
        t.FACTOR: factor,
    }
    fields = product_fields(pack(linear, tape.arena), tape.quantized(x_NI))
    tape.add(t.MATMUL, fields | target)

    tape.compute(plan_of_rows(num_rows), num_threads=2)

    assert same_bits(read_floats(stream, num_rows), expected_NO)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("num_panels", range(1, 12))
@pytest.mark.parametrize("per_chunk", [1, 2, 3])
def test_every_panel_is_computed_once_however_they_are_cut(
    per_chunk: int, num_panels: int, scheme: str
) -> None:
    linear = random_linear(40, [32 * num_panels - 5], scheme=scheme)
    for num_rows in (1, 2, 3, 8, 13):
        x_NI = random_rows(num_rows, 40, seed=num_rows)
        tape = KernelTape()
        packed = pack(linear, tape.arena)
        y, rows = results_of(packed, tape, num_rows), tape.quantized(x_NI)
        target: dict[int, Field] = {t.MODE: t.ADD, t.Y: y.values, t.LD_Y: y.stride, t.FACTOR: 1.0}
        tape.add(t.MATMUL, product_fields(packed, rows, panels_per_chunk=per_chunk) | target)

        tape.compute(plan_of_rows(num_rows), num_threads=2)

        assert same_bits(unpadded(packed, read_floats(y, num_rows)), linear(x_NI))


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("num_panels", range(1, 8))
@pytest.mark.parametrize("per_chunk", [1, 2, 3])
def test_every_gate_is_computed_however_they_are_cut(
    per_chunk: int, num_panels: int, scheme: str
) -> None:
    size = 32 * num_panels - 5
    linear = random_linear(40, [size, size], scheme=scheme)
    for num_rows in (1, 2, 3, 8, 13):
        x_NI = random_rows(num_rows, 40, seed=num_rows) / 30
        gate_NF, up_NF = linear(x_NI).chunk(2, dim=-1)
        expected = quantize_groups(exp.silu(gate_NF) * up_NF)
        tape = KernelTape()
        rows = tape.quantized(x_NI)
        gated = QuantizedRows(tape.arena, num_rows=num_rows, size=size)
        fields = product_fields(pack(linear, tape.arena), rows, panels_per_chunk=per_chunk)
        fields |= {t.MODE: t.GATE, t.ACTIVATION: t.SILU} | gated.as_gated_output()
        tape.add(t.MATMUL, fields)

        tape.compute(plan_of_rows(num_rows), num_threads=2)

        xq_NGJ, scale_NG = read_quantized(gated, num_rows)
        assert torch.equal(xq_NGJ, expected[0])
        assert same_bits(scale_NG, expected[1])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("activation", "function"), [(t.SILU, exp.silu), (t.GELU_TANH, exp.gelu_tanh)]
)
@pytest.mark.parametrize("num_rows", [1, 4, 7, 20])
def test_gates_leave_the_bytes_of_the_next_product(num_rows, activation, function, scheme) -> None:  # type: ignore[no-untyped-def] # one of two functions
    size = [32, 96, 70][num_rows % 3]
    linear = random_linear(96, [size, size], scheme=scheme, bias=num_rows == 4)
    x_NI = random_rows(num_rows, 96, seed=num_rows) / 30
    gate_NF, up_NF = linear(x_NI).chunk(2, dim=-1)
    expected = quantize_groups(function(gate_NF) * up_NF)
    tape = KernelTape()
    rows = tape.quantized(x_NI)
    gated = QuantizedRows(tape.arena, num_rows=num_rows, size=size)
    target: dict[int, Field] = {t.MODE: t.GATE, t.ACTIVATION: activation} | gated.as_gated_output()
    tape.add(t.MATMUL, product_fields(pack(linear, tape.arena), rows) | target)

    tape.compute(plan_of_rows(num_rows), num_threads=2)

    xq_NGJ, scale_NG = read_quantized(gated, num_rows)
    assert torch.equal(xq_NGJ, expected[0])
    assert same_bits(scale_NG, expected[1])


@pytest.mark.parametrize("scheme", ["int8", "zero-one"])
@pytest.mark.parametrize("divisor", [1.0, 8.0, 3.3])
@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_logits_are_divided_and_capped(softcap: float, divisor: float, scheme: str) -> None:
    linear = random_linear(64, [300], scheme=scheme)
    x_NI = random_rows(9, 64, seed=4) / 10
    expected_NO = linear(x_NI)
    if divisor != 1.0:
        expected_NO = expected_NO / divisor
    if softcap:
        expected_NO = exp.soft_cap(expected_NO, softcap)
    tape = KernelTape()
    packed = pack(linear, tape.arena)
    rows = tape.quantized(x_NI, rows=t.LOGITS_ROWS)
    y = results_of(packed, tape, 9)
    target: dict[int, Field] = {t.MODE: t.LOGITS, t.Y: y.values, t.LD_Y: y.stride}
    target |= {t.FACTOR: divisor, t.SOFTCAP: softcap}
    tape.add(t.MATMUL, product_fields(packed, rows) | target, rows=t.LOGITS_ROWS)

    tape.compute(plan_of_rows(12), rows=range(9))

    assert same_bits(unpadded(packed, read_floats(y, 9)), expected_NO)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("num_rows", [3, 8])
def test_a_value_that_is_not_finite_stays_in_its_row(
    num_rows: int, value: float, scheme: str
) -> None:
    linear = random_linear(70, [40, 33], scheme=scheme, bias=True)
    x_NI = random_rows(num_rows, 70, seed=3)
    x_NI[1, 40] = value
    expected_NO = linear(x_NI)
    tape = KernelTape()
    packed = pack(linear, tape.arena)
    rows, y = tape.quantized(x_NI), results_of(packed, tape, num_rows)
    target: dict[int, Field] = {t.MODE: t.STORE, t.Y: y.values, t.LD_Y: y.stride}
    tape.add(t.MATMUL, product_fields(packed, rows) | target)

    tape.compute(plan_of_rows(num_rows), num_threads=2)

    y_NO = unpadded(packed, read_floats(y, num_rows))
    others = [row for row in range(num_rows) if row != 1]
    assert same_bits(y_NO[others], expected_NO[others])
    assert not bool(y_NO[1].isfinite().any())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_passes_through_gates(value: float) -> None:
    linear = random_linear(70, [64, 64])
    x_NI = random_rows(3, 70, seed=3) / 30
    x_NI[1, 40] = value
    gate_NF, up_NF = linear(x_NI).chunk(2, dim=-1)
    xq_NGJ, scale_NG = quantize_groups(exp.silu(gate_NF) * up_NF)
    tape = KernelTape()
    rows, gated = tape.quantized(x_NI), QuantizedRows(tape.arena, num_rows=3, size=64)
    target: dict[int, Field] = {t.MODE: t.GATE, t.ACTIVATION: t.SILU} | gated.as_gated_output()
    tape.add(t.MATMUL, product_fields(pack(linear, tape.arena), rows) | target)

    tape.compute(plan_of_rows(3))

    read_NGJ, read_NG = read_quantized(gated, 3)
    assert torch.equal(read_NGJ[::2], xq_NGJ[::2])
    assert same_bits(read_NG[::2], scale_NG[::2])
    assert not bool(read_NG[1].isfinite().any())
