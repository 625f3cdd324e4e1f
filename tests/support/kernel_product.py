"""Random linears of any shape, and the records of their products.

Shape legend: I input features, R rows of one of the checkpoint's modules, N rows of input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.layers.linear import Linear
from lorry_server.quantization.registry import scheme_named
from lorry_server.runner.compiled.buffers import FloatRows, QuantizedRows
from lorry_server.runner.compiled.packed_linear import PackedLinear, pack_linear
from lorry_server.runner.compiled.records import Field
from tests.support.kernel_tape import KernelTape

SCHEMES = ("int8", "zero-one", "int4")


def random_rows(num: int, size: int, *, seed: int) -> Tensor:
    """Rows of activations with a few huge features, as trained models have; every fifth is zero."""
    generator = torch.Generator().manual_seed(seed)
    x_NI = torch.randn(num, size, generator=generator)
    x_NI[:, ::29] *= 1000
    x_NI[3::5] = 0
    return x_NI


def random_linear(
    in_features: int,
    sizes: Sequence[int],
    *,
    scheme: str = "int8",
    bias: bool = False,
    seed: int = 0,
) -> Linear:
    """A linear fused of modules "0", "1", ..., each on a scale of its own; one row is zero."""
    linear = Linear(
        "linear",
        in_features=in_features,
        parts=[(str(index), size) for index, size in enumerate(sizes)],
        bias=bias,
        scheme=scheme_named(scheme),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    generator = torch.Generator().manual_seed(seed)
    for index, part in enumerate(linear.slices):
        w_RI = torch.randn(part.stop - part.start, in_features, generator=generator)
        w_RI *= 10.0**-index
        w_RI[len(w_RI) // 2] = 0
        linear.weight.load_rows_(part.start, w_RI + 0.3 * index)
    if linear.bias_O is not None:
        linear.bias_O.copy_(torch.randn(linear.out_features, generator=generator))
    return linear


def pack(linear: Linear, arena: Arena) -> PackedLinear:
    """Packed with a part for each module."""
    return pack_linear(linear, [part.stop - part.start for part in linear.slices], arena)


def product_fields(
    packed: PackedLinear, rows: QuantizedRows, *, panels_per_chunk: int = 1
) -> dict[int, Field]:
    """A MATMUL without what it does with its results."""
    return rows.as_input() | {
        t.W: packed.w,
        t.PANEL_BYTES: packed.panel_bytes,
        t.NUM_PANELS: packed.num_panels,
        t.PANELS_PER_CHUNK: panels_per_chunk,
        t.W_SCALE: packed.scale,
        t.W_ZERO: packed.zero,
        t.NIBBLE_SCALE: packed.nibbles.scale if packed.nibbles else None,
        t.NIBBLE_ZERO: packed.nibbles.zero if packed.nibbles else None,
        t.BIAS: packed.bias,
        t.PANEL_SLICE: packed.panel_slice,
    }


def results_of(packed: PackedLinear, tape: KernelTape, num_rows: int) -> FloatRows:
    """Rows of zeros for the results of all panels."""
    return tape.floats(torch.zeros(num_rows, packed.num_outputs))


def unpadded(packed: PackedLinear, y_NP: Tensor) -> Tensor:
    """The columns of the linear, without the filling of its panels."""
    columns = [
        y_NP[:, packed.column_of(index) : packed.column_of(index) + part.stop - part.start]
        for index, part in enumerate(packed.parts)
    ]
    return torch.cat(columns, dim=1)
