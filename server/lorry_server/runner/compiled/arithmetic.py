"""`Arithmetic`: which operations compute a model, by what its weights are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.model.decoder import Decoder
from lorry_server.quantization.affine_rows import AffineRows
from lorry_server.quantization.int4 import Int4Weight
from lorry_server.quantization.unquantized import UnquantizedWeight
from lorry_server.runner.compiled.buffers import ElementRows, FloatRows, QuantizedRows
from lorry_server.runner.compiled.elements import ELEMENTS
from lorry_server.runner.compiled.records import Field

InputRows = QuantizedRows | ElementRows | FloatRows


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Operations of the tape. `element` is that of float weights; None: they are quantized.

    Activations are rounded to `dtype`; sums and what lies between two operations are float32.
    """

    embed: int
    norm: int
    matmul: int
    shrink: int
    add_normed: int
    own_rows: int
    dtype: torch.dtype = torch.float32
    element: int | None = None

    def rows(self, arena: Arena, *, num_rows: int, size: int) -> QuantizedRows | ElementRows:
        """Rows that a matmul reads."""
        if self.element is None:
            return QuantizedRows(arena, num_rows=num_rows, size=size)
        return ElementRows(arena, num_rows=num_rows, size=size, element=self.element)

    @property
    def converts_attended(self) -> int | None:
        """The operation that makes rows to multiply of attention's floats; None: they are."""
        if self.element is None:
            return t.QUANTIZE
        return t.TO_BFLOAT16 if self.element == t.BFLOAT16 else None

    @property
    def fields(self) -> dict[int, Field]:
        """What every record of the model has."""
        if self.element is None:
            return {}
        return {t.ELEMENT: self.element, t.ROUNDS: self.rounds}

    @property
    def rounds(self) -> int:
        return int(self.element == t.BFLOAT16)


INTEGERS = Arithmetic(
    embed=t.EMBED,
    norm=t.NORM,
    matmul=t.MATMUL,
    shrink=t.SHRINK,
    add_normed=t.ADD_NORMED,
    own_rows=t.OWN_ROWS,
)


def arithmetic_of(decoder: Decoder) -> Arithmetic:
    """The arithmetic of a decoder for which there is no `reason_of_weights`."""
    if next(decoder.linears()).weight.is_quantized:
        return INTEGERS
    return Arithmetic(
        embed=t.FLOAT_EMBED,
        norm=t.FLOAT_NORM,
        matmul=t.FLOAT_MATMUL,
        shrink=t.FLOAT_SHRINK,
        add_normed=t.FLOAT_ADD_NORMED,
        own_rows=t.FLOAT_OWN_ROWS,
        dtype=decoder.dtype,
        element=ELEMENTS[decoder.dtype],
    )


def computes_floats(decoder: Decoder, kv_dtype: torch.dtype) -> bool:
    """Whether the kernels for floats are needed: for the weights or for the cache."""
    return arithmetic_of(decoder).element is not None or kv_dtype != torch.int8


def reason_of_weights(decoder: Decoder) -> str | None:
    """Why no arithmetic here computes with a model's weights; None if one does."""
    for linear in decoder.linears():
        if not isinstance(linear.weight, AffineRows | Int4Weight | UnquantizedWeight):
            return f"its weights are {type(linear.weight).__name__}"
    if len({linear.weight.is_quantized for linear in decoder.linears()}) > 1:
        return "only some of its weights are quantized"
    if not next(decoder.linears()).weight.is_quantized and decoder.dtype not in ELEMENTS:
        return f"its weights are {str(decoder.dtype).removeprefix('torch.')}"
    return None
