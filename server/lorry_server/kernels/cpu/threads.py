"""How threads share a step: chunks are claimed one by one, and a phase is over when all are done.

Each phase has two words, `claimed` and `done`: the number of the step in the upper half, a count in the
lower. A phase waits for its chunks and not for its threads, so a thread that the system has put
aside holds nobody up unless it has a chunk in hand; when it wakes it finds the counts full and walks
on. If the step is over by then the upper half has changed, and it leaves without touching anything.

Who waits spins, and yields only when the wait is longer than any chunk: then the thread that holds
the chunk has been put aside, and the core is better used by others. Yielding sooner would be a gift
to whatever else runs on the machine: it gets a whole slice, milliseconds, while the step takes six.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.simd import I64, llvm_function, pointer

SPINS_BEFORE_YIELD = 16_000  # pauses of some 10 ns
OVER = -1  # no chunk of this phase is left
STALE = -2  # the step itself is over

sched_yield = types.ExternalFunction("sched_yield", types.int32())
sched_getcpu = types.ExternalFunction("sched_getcpu", types.int32())
sem_wait = types.ExternalFunction("sem_wait", types.int32(types.int64))
sem_post = types.ExternalFunction("sem_post", types.int32(types.int64))


@intrinsic
def load_shared(typingctx: Any, address: Any) -> Any:
    """The int64 at `address`, which other threads write."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(pointer(builder, args[0], I64), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def store_shared(typingctx: Any, address: Any, value: Any) -> Any:
    """Publish an int64, and all that was written before it, to other threads."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[1], pointer(builder, args[0], I64), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def replace_shared(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """Store `value` if `expected` is there; whether it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = pointer(builder, args[0], I64)
        pair = builder.cmpxchg(target, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def add_shared(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at `address`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.atomic_rmw("add", pointer(builder, args[0], I64), args[1], "seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the core that this is a spin."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.call(llvm_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def cycles(typingctx: Any) -> Any:
    """The processor's time stamp counter."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.call(llvm_function(builder, "llvm.readcyclecounter", I64, []), [])

    return types.int64(), codegen


@njit(nogil=True)
def claim(word, epoch, num_chunks):
    """The next chunk of a phase, or OVER or STALE."""
    while True:
        seen = load_shared(word)
        if seen >> 32 != epoch:
            return STALE
        index = seen & 0xFFFFFFFF
        if index >= num_chunks:
            return OVER
        if replace_shared(word, seen, seen + 1):
            return index


@njit(nogil=True)
def wait_until_done(word, epoch, num_chunks):
    """Wait for the chunks that others have in hand; False if the step has ended meanwhile."""
    spins = 0
    while True:
        seen = load_shared(word)
        if seen >> 32 != epoch:
            return False
        if seen & 0xFFFFFFFF >= num_chunks:
            return True
        spins += 1
        if spins < SPINS_BEFORE_YIELD:
            pause()
        else:
            sched_yield()


@njit(nogil=True)
def let_loop_go_on(activity):
    """Yield if the event loop has work and was on this core: it has been set aside for this thread.

    `activity` is the address of the words of `engine.loop_activity`, or 0. Called with no chunk in
    hand, so that nobody waits for what a thread that yields has claimed.
    """
    if activity == 0 or load_shared(activity) == 0:
        return
    # the kernel keeps the number of the core in the upper half
    if load_shared(load_shared(activity + 8)) >> 32 == sched_getcpu():
        sched_yield()
