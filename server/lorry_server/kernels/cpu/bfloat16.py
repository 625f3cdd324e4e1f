"""bfloat16 numbers: the upper halves of float32, two to a lane; and fused multiply-adds.

A pair of them in one 32-bit lane holds the first in the low half. Where the processor has
AVX512-BF16 it multiplies pairs itself; elsewhere they are widened in registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.simd import (
    F32,
    I16,
    I32,
    f32x16,
    i32x16,
    llvm_function,
    pointer,
    splat,
    store_f32x16,
)
from lorry_server.kernels.cpu.tile import has_feature

V16F, V16I, V16W = f32x16.vector, i32x16.vector, ir.VectorType(I16, 16)


class _BFloat(ir.Type):
    """LLVM's name for the type; llvmlite has no class for it."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


V32B = ir.VectorType(_BFloat(), 32)


def _every_lane(bits: int) -> ir.Constant:
    return ir.Constant(V16I, [bits] * 16)


def emit_fma(b: ir.IRBuilder, total: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
    """total + left * right, rounded once."""
    function = llvm_function(b, "llvm.fma.v16f32", V16F, [V16F, V16F, V16F])
    return b.call(function, [left, right, total])


def emit_widened(b: ir.IRBuilder, pairs: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The first and the second number of each pair as float32."""
    first = b.bitcast(b.shl(pairs, _every_lane(16)), V16F)
    return first, b.bitcast(b.and_(pairs, _every_lane(0xFFFF0000)), V16F)


def emit_pair_products(
    context: Any, b: ir.IRBuilder, total: ir.Value, left: ir.Value, right: ir.Value
) -> ir.Value:
    """total + both products of each pair, in float32."""
    if has_feature(context, "avx512bf16"):
        function = llvm_function(b, "llvm.x86.avx512bf16.dpbf16ps.512", V16F, [V16F, V32B, V32B])
        return b.call(function, [total, b.bitcast(left, V32B), b.bitcast(right, V32B)])
    for one, other in zip(emit_widened(b, left), emit_widened(b, right), strict=True):
        total = emit_fma(b, total, one, other)
    return total


def _emit_rounded_bits(b: ir.IRBuilder, values: ir.Value) -> ir.Value:
    bits = b.bitcast(values, V16I)
    is_odd = b.and_(b.lshr(bits, _every_lane(16)), _every_lane(1))
    return b.add(b.add(bits, _every_lane(0x7FFF)), is_odd)  # half to even


@intrinsic
def fma(typingctx: Any, total: Any, left: Any, right: Any) -> Any:
    """total + left * right, rounded once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit_fma(builder, *args)

    return f32x16(f32x16, f32x16, f32x16), codegen


@intrinsic
def add_pair_products(typingctx: Any, total: Any, left: Any, right: Any) -> Any:
    """total + both products of each pair."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit_pair_products(context, builder, *args)

    return f32x16(f32x16, i32x16, i32x16), codegen


@intrinsic
def round_bf16(typingctx: Any, values: Any) -> Any:
    """Each float32 rounded to the nearest bfloat16, ties to even."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rounded = _emit_rounded_bits(builder, args[0])
        return builder.bitcast(builder.and_(rounded, _every_lane(0xFFFF0000)), V16F)

    return f32x16(f32x16), codegen


@intrinsic
def store_bf16(typingctx: Any, address: Any, values: Any) -> Any:
    """16 floats, rounded, one after the other in 2 bytes each."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        upper = builder.lshr(_emit_rounded_bits(builder, args[1]), _every_lane(16))
        narrow = builder.trunc(upper, V16W)
        builder.store(narrow, pointer(builder, args[0], V16W), align=2)
        return context.get_dummy_value()

    return types.void(types.int64, f32x16), codegen


@intrinsic
def upper_halves(typingctx: Any, values: Any) -> Any:
    """Floats that are bfloat16 already, in the low half of each lane; the upper half is 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.lshr(builder.bitcast(args[0], V16I), _every_lane(16))

    return i32x16(f32x16), codegen


@intrinsic
def narrow(typingctx: Any, value: Any) -> Any:
    """The bits of the bfloat16 that is nearest to a float32, ties to even."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rounded = _emit_rounded_bits(builder, splat(builder, args[0], 16))
        bits = builder.extract_element(rounded, ir.Constant(I32, 0))
        return builder.trunc(builder.lshr(bits, ir.Constant(I32, 16)), I16)

    return types.uint16(types.float32), codegen


@intrinsic
def widen(typingctx: Any, bits: Any) -> Any:
    """The float32 that the bits of a bfloat16 stand for."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = builder.shl(builder.zext(args[0], I32), ir.Constant(I32, 16))
        return builder.bitcast(wide, F32)

    return types.float32(types.uint16), codegen


@njit(nogil=True)
def settle(values, rounds):
    """`values`, rounded to bfloat16 where the model's activations are."""
    if rounds:
        return round_bf16(values)
    return values


@njit(nogil=True)
def store_elements(row, k, values, is_bf16):
    """16 floats to the elements from `k` on of a row."""
    if is_bf16:
        store_bf16(row + 2 * k, values)
    else:
        store_f32x16(row + 4 * k, values)
