"""Comparisons of registers: as a bit for each lane, or as a choice between lanes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.simd import I32, f32x16, i32x16, i64x8


def _mask(register: Any, compare: str, order: str) -> Any:
    @intrinsic
    def mask(typingctx: Any, left: Any, right: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes = getattr(builder, compare)(order, *args)
            return builder.zext(builder.bitcast(lanes, ir.IntType(register.lanes)), I32)

        return types.int32(register, register), codegen

    return mask


# Bit i of the result is lane i's; a comparison with NaN is false.
mask_less_equal = _mask(f32x16, "fcmp_ordered", "<=")
mask_greater = _mask(f32x16, "fcmp_ordered", ">")
mask_equal = _mask(f32x16, "fcmp_ordered", "==")
mask_equal_int = _mask(i32x16, "icmp_signed", "==")


def _where(compare: str, order: str) -> Any:
    @intrinsic
    def where(typingctx: Any, left: Any, right: Any, chosen: Any, other: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            condition = getattr(builder, compare)(order, args[0], args[1])
            return builder.select(condition, args[2], args[3])

        return f32x16(f32x16, f32x16, f32x16, f32x16), codegen

    return where


where_float_less = _where("fcmp_ordered", "<")


@intrinsic
def upper_halves(typingctx: Any, first: Any, second: Any) -> Any:
    """The upper 32 bits of 16 words, the first register's before the second's."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shift = ir.Constant(i64x8.vector, [32] * 8)
        narrow = ir.VectorType(I32, 8)
        halves = [builder.trunc(builder.lshr(part, shift), narrow) for part in args]
        order = ir.Constant(ir.VectorType(I32, 16), list(range(16)))
        return builder.shuffle_vector(*halves, order)

    return i32x16(i64x8, i64x8), codegen
