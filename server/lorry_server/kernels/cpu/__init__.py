"""Kernels that numba compiles for the CPU at hand: a whole step without the interpreter's lock."""
