"""The call from the walk over the tape into code that is compiled by itself.

What numba compiles into one function it optimizes as a whole, so a machine that serves quantized
models would pay for code that it never runs. The operations over floats are compiled and loaded
only for models or caches of floats, and the step block has their address. Sampling is much code for
one operation, whose record has its address.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.simd import I64, pointer


@intrinsic
def call_second_part(
    typingctx: Any, function: Any, rec: Any, step: Any, index: Any, scratch: Any
) -> Any:
    """Call the function at an address, such as that of `float_step.run_float`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 4)
        builder.call(pointer(builder, args[0], kind), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen
