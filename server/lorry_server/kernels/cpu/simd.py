"""Vector registers for numba: 16 floats or integers, 8 doubles or words, loads and stores by address.

numba has no type for a register, and LLVM finds the wide form of a loop only now and then. Here a
register is a value like any other: `a + b`, `maximum(a, b)`, `load_f32x16(address)`. Each function is
one LLVM instruction or a few; LLVM splits it where registers are narrower than 512 bits. Addresses
are plain integers (bytes). Nothing is contracted or reordered: each operation rounds by itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.datamodel import models
from numba.core.extending import intrinsic, lower_builtin, register_model, type_callable

F32, F64 = ir.FloatType(), ir.DoubleType()
I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


class Register(types.Type):
    """The numba type of a vector of `lanes` elements."""

    def __init__(self, name: str, element: ir.Type, lanes: int, scalar: types.Type) -> None:
        self.vector = ir.VectorType(element, lanes)
        self.lanes = lanes
        self.scalar = scalar
        super().__init__(name=name)


@register_model(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Register) -> None:
        super().__init__(dmm, fe_type, fe_type.vector)


f32x16 = Register("f32x16", F32, 16, types.float32)
i32x16 = Register("i32x16", I32, 16, types.int32)
f64x8 = Register("f64x8", F64, 8, types.float64)
i64x8 = Register("i64x8", I64, 8, types.int64)


def pointer(builder: ir.IRBuilder, address: ir.Value, pointee: ir.Type) -> ir.Value:
    """An address as a pointer that can be loaded from and stored to."""
    return builder.inttoptr(address, pointee.as_pointer())


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """`value` in every lane."""
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, zeros)


def llvm_function(
    builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Type]
) -> ir.Function:
    """The declaration of an LLVM intrinsic in this module, made once."""
    module = builder.module
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, arguments), name=name)


def _operator(op: Callable[..., Any], register: Register, method: str) -> None:
    @type_callable(op)
    def type_operator(context: Any) -> Any:
        def typer(left: types.Type, right: types.Type) -> types.Type | None:
            return register if left == register and right == register else None

        return typer

    @lower_builtin(op, register, register)
    def lower_operator(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, method)(*args)


for _op, _float, _integer in (
    (operator.add, "fadd", "add"),
    (operator.sub, "fsub", "sub"),
    (operator.mul, "fmul", "mul"),
    (operator.truediv, "fdiv", None),
    (operator.and_, None, "and_"),
    (operator.or_, None, "or_"),
    (operator.xor, None, "xor"),
    (operator.lshift, None, "shl"),
    (operator.rshift, None, "lshr"),  # zeros come in from above, not the sign
):
    for _register in (f32x16, f64x8, i32x16, i64x8):
        _method = _float if _register in (f32x16, f64x8) else _integer
        if _method is not None:
            _operator(_op, _register, _method)


def _loader(register: Register) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            # rows begin at any element, so nothing more than its alignment is promised
            return builder.load(pointer(builder, args[0], register.vector), align=4)

        return register(types.int64), codegen

    return load


def _storer(register: Register) -> Any:
    @intrinsic
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            builder.store(args[1], pointer(builder, args[0], register.vector), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, register), codegen

    return store


def _splatter(register: Register) -> Any:
    @intrinsic
    def splat_scalar(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return splat(builder, args[0], register.lanes)

        return register(register.scalar), codegen

    return splat_scalar


load_f32x16, store_f32x16, splat_f32 = _loader(f32x16), _storer(f32x16), _splatter(f32x16)
load_i32x16, store_i32x16, splat_i32 = _loader(i32x16), _storer(i32x16), _splatter(i32x16)
load_i64x8, store_i64x8, splat_i64 = _loader(i64x8), _storer(i64x8), _splatter(i64x8)
splat_f64 = _splatter(f64x8)


def _convert(source: Register, target: Register, method: str) -> Any:
    @intrinsic
    def convert(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return getattr(builder, method)(args[0], target.vector)

        return target(source), codegen

    return convert


to_int = _convert(f32x16, i32x16, "fptosi")
to_float = _convert(i32x16, f32x16, "sitofp")
bits_of = _convert(f32x16, i32x16, "bitcast")
from_bits = _convert(i32x16, f32x16, "bitcast")
bits_of_f64 = _convert(f64x8, i64x8, "bitcast")
f64_of_i64 = _convert(i64x8, f64x8, "sitofp")


def _choose(register: Register, compare: str, order: str) -> Any:
    @intrinsic
    def choose(typingctx: Any, left: Any, right: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            condition = getattr(builder, compare)(order, *args)
            return builder.select(condition, *args)

        return register(register, register), codegen

    return choose


# As the processor's own: where either is NaN the second is taken.
maximum = _choose(f32x16, "fcmp_ordered", ">")
minimum = _choose(f32x16, "fcmp_ordered", "<")
maximum_int = _choose(i32x16, "icmp_signed", ">")


@intrinsic
def lanes(typingctx: Any) -> Any:
    """0 to 15."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(i32x16.vector, list(range(16)))

    return i32x16(), codegen


@intrinsic
def where_less(typingctx: Any, left: Any, right: Any, chosen: Any, other: Any) -> Any:
    """`chosen` in the lanes where the integers `left < right`, else `other`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed("<", args[0], args[1]), args[2], args[3])

    return f32x16(i32x16, i32x16, f32x16, f32x16), codegen


def _reduce(register: Register, name: str, *, start: ir.Constant | None = None) -> Any:
    @intrinsic
    def reduce(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            element = register.vector.element
            given = [] if start is None else [start]
            function = llvm_function(
                builder, name, element, [*(c.type for c in given), register.vector]
            )
            call = builder.call(function, [*given, args[0]])
            if start is not None:
                call.fastmath.add("reassoc")  # lanes in a tree; sums of doubles are rounded after
            return call

        return register.scalar(register), codegen

    return reduce


largest_int = _reduce(i32x16, "llvm.vector.reduce.smax.v16i32")
sum_int = _reduce(i32x16, "llvm.vector.reduce.add.v16i32")
sum_i64 = _reduce(i64x8, "llvm.vector.reduce.add.v8i64")
float_max = _reduce(f32x16, "llvm.vector.reduce.fmax.v16f32")
sum_f64 = _reduce(f64x8, "llvm.vector.reduce.fadd.v8f64", start=ir.Constant(F64, 0.0))
sum_f32 = _reduce(f32x16, "llvm.vector.reduce.fadd.v16f32", start=ir.Constant(F32, 0.0))


def _half(start: int) -> Any:
    @intrinsic
    def half(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            mask = ir.Constant(ir.VectorType(I32, 8), list(range(start, start + 8)))
            part = builder.shuffle_vector(args[0], ir.Constant(f32x16.vector, ir.Undefined), mask)
            return builder.fpext(part, f64x8.vector)

        return f64x8(f32x16), codegen

    return half


low_f64, high_f64 = _half(0), _half(8)


@intrinsic
def store_bytes(typingctx: Any, address: Any, value: Any) -> Any:
    """The low byte of each of 16 integers, one after the other."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        narrow = ir.VectorType(I8, 16)
        builder.store(builder.trunc(args[1], narrow), pointer(builder, args[0], narrow), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, i32x16), codegen


def _scalar(element: ir.Type, scalar: types.Type, align: int) -> tuple[Any, Any]:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.load(pointer(builder, args[0], element), align=align)

        return scalar(types.int64), codegen

    @intrinsic
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            builder.store(args[1], pointer(builder, args[0], element), align=align)
            return context.get_dummy_value()

        return types.void(types.int64, scalar), codegen

    return load, store


load_i8, store_i8 = _scalar(I8, types.int8, 1)
load_u8, _ = _scalar(I8, types.uint8, 1)
load_u16, store_u16 = _scalar(I16, types.uint16, 2)
load_i32, store_i32 = _scalar(I32, types.int32, 4)
load_i64, store_i64 = _scalar(I64, types.int64, 8)
load_f32, store_f32 = _scalar(F32, types.float32, 4)


@intrinsic
def float_from_bits(typingctx: Any, bits: Any) -> Any:
    """The float32 that a 32-bit integer's bits spell."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], F32)

    return types.float32(types.int32), codegen


@intrinsic
def float_bits(typingctx: Any, value: Any) -> Any:
    """The bits of a float32 as a 32-bit integer."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], I32)

    return types.int32(types.float32), codegen


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at `address`; harmless wherever it points."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        emit_prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@njit(nogil=True)
def prefetch_bytes(address, num_bytes):
    """Ask for all cache lines of a piece of memory."""
    for line in range(0, num_bytes, 64):
        prefetch(address + line)


def emit_prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    pointer_type = I8.as_pointer()
    function = llvm_function(
        builder, "llvm.prefetch.p0", ir.VoidType(), [pointer_type, I32, I32, I32]
    )
    read, keep, data = ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)
    builder.call(function, [builder.inttoptr(address, pointer_type), read, keep, data])
