"""Compiled operations on single rows, beside their references."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lorry_server.kernels.affine_matmul import quantize_groups
from lorry_server.kernels.cpu import tape as t
from lorry_server.layers.norm import RMSNorm
from lorry_server.runner.compiled.buffers import FloatRows, QuantizedRows
from lorry_server.runner.compiled.records import Field
from tests.support.kernel_product import pack, random_linear, random_rows
from tests.support.kernel_tape import (
    KernelTape,
    needs_kernels,
    plan_of_rows,
    read_floats,
    read_quantized,
    same_bits,
)

pytestmark = needs_kernels
SIZES = (1, 5, 16, 31, 32, 33, 48, 80, 576)


def random_norm(size: int) -> RMSNorm:
    norm = RMSNorm("norm", size=size, eps=1e-5, offset=0.0, device=torch.device("cpu"))
    norm.load_(torch.randn(size, generator=torch.Generator().manual_seed(9)))
    return norm


def norm_fields(tape: KernelTape, norm: RMSNorm, rows: FloatRows) -> dict[int, Field]:
    return {
        t.NORM_X: rows.values,
        t.NORM_LD_X: rows.stride,
        t.NORM_WEIGHT: tape.padded_floats(norm.weight_D),
        t.NORM_SIZE: rows.size,
        t.NORM_PADDED: rows.padded,
        t.NORM_EPS: 1e-5,
    }


def assert_quantized(rows: QuantizedRows, expected_ND: Tensor) -> None:
    xq_NGJ, scale_NG = read_quantized(rows, len(expected_ND))
    expected_NGJ, expected_NG = quantize_groups(expected_ND)
    is_finite_NG = expected_NG.isfinite()
    assert same_bits(scale_NG, expected_NG)
    assert torch.equal(xq_NGJ[is_finite_NG], expected_NGJ[is_finite_NG])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_rows", [1, 15, 16, 37])
def test_rows_become_bytes_in_groups(num_rows: int, size: int) -> None:
    x_ND = random_rows(num_rows, size, seed=size)
    x_ND[0] *= 1e-30
    x_ND[num_rows // 2, size // 2] = torch.nan
    tape = KernelTape()
    rows = tape.quantized(x_ND)

    tape.compute(plan_of_rows(num_rows), num_threads=2)

    assert_quantized(rows, x_ND)


def test_halves_are_rounded_to_even() -> None:
    x_ND = torch.zeros(1, 32)
    x_ND[0, :7] = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5])
    tape = KernelTape()
    rows = tape.quantized(x_ND)

    tape.compute(plan_of_rows(1))

    xq_NGJ, _ = read_quantized(rows, 1)
    assert xq_NGJ[0, 0, :7].tolist() == [127, 0, 2, 2, 0, -2, -126]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_rows", [1, 15, 37])
def test_norms_have_the_bits_of_the_reference(num_rows: int, size: int) -> None:
    x_ND = random_rows(num_rows, size, seed=size)
    x_ND[num_rows // 2, size // 2] = torch.inf
    norm = random_norm(size)
    tape = KernelTape()
    rows = tape.floats(x_ND)
    out = QuantizedRows(tape.arena, num_rows=num_rows, size=size)
    tape.add(t.NORM, norm_fields(tape, norm, rows) | out.as_input())

    tape.compute(plan_of_rows(num_rows), num_threads=2)

    assert_quantized(out, norm(x_ND))


@pytest.mark.parametrize("size", SIZES)
def test_the_rows_that_are_wanted_are_gathered(size: int) -> None:
    x_ND = random_rows(30, size, seed=1)
    wanted = [29, 4, 0, 17]
    tape = KernelTape()
    rows, gathered = tape.floats(x_ND), tape.floats(random_rows(4, size, seed=2))
    fields: dict[int, Field] = {
        t.NORM_X: rows.values,
        t.NORM_LD_X: rows.stride,
        t.NORM_PADDED: rows.padded,
        t.NORM_ADD_TO: gathered.values,
        t.NORM_LD_ADD_TO: gathered.stride,
    }
    tape.add(t.GATHER, fields, rows=t.LOGITS_ROWS)

    tape.compute(plan_of_rows(30), rows=wanted)

    assert same_bits(read_floats(gathered, 4)[:, :size], x_ND[wanted])


@pytest.mark.parametrize("factor", [1.0, 0.22])
@pytest.mark.parametrize("size", SIZES)
def test_normed_rows_are_added_to_the_residual_stream(size: int, factor: float) -> None:
    x_ND, y_ND = random_rows(18, size, seed=1), random_rows(18, size, seed=2)
    norm = random_norm(size)
    expected_ND = x_ND + norm(y_ND) * factor
    tape = KernelTape()
    x, y = tape.floats(x_ND), tape.floats(y_ND)
    target: dict[int, Field] = {
        t.NORM_ADD_TO: x.values,
        t.NORM_LD_ADD_TO: x.stride,
        t.NORM_FACTOR: factor,
    }
    tape.add(t.ADD_NORMED, norm_fields(tape, norm, y) | target)

    tape.compute(plan_of_rows(18), num_threads=2)

    assert same_bits(read_floats(x, 18), expected_ND)


@pytest.mark.parametrize("multiplier", [1.0, math.sqrt(96)])
@pytest.mark.parametrize("scheme", ["int8", "zero-one", "none"])
@pytest.mark.parametrize("size", [1, 33, 96])
def test_embeddings_have_the_bits_of_the_reference(
    size: int, scheme: str, multiplier: float
) -> None:
    linear = random_linear(size, [77], scheme=scheme)
    ids_T = torch.tensor([76, 0, 31, 32, 33, 64, 76, 5])
    expected_TD = linear.weight.rows(ids_T)
    if multiplier != 1.0:
        expected_TD = expected_TD * torch.tensor(multiplier)
    tape = KernelTape()
    x = tape.floats(torch.zeros(8, size))
    fields: dict[int, Field] = {
        t.EMBED_X: x.values,
        t.EMBED_LD_X: x.stride,
        t.EMBED_SIZE: size,
        t.EMBED_MULTIPLIER: multiplier,
    }
    if scheme == "none":
        table = tape.arena.floats(77 * size)
        table[:] = linear.weight.dequantize().numpy().reshape(-1)
        fields[t.EMBED_TABLE] = table
    else:
        packed = pack(linear, tape.arena)
        fields |= {
            t.EMBED_W: packed.w,
            t.EMBED_PANEL_BYTES: packed.panel_bytes,
            t.EMBED_SCALE: packed.scale,
            t.EMBED_ZERO: packed.zero,
        }
    tape.add(t.EMBED, fields)

    tape.compute(plan_of_rows(8, token_ids=ids_T.tolist()))

    assert same_bits(read_floats(x, 8), expected_TD)
