"""The sections of `benchmarks/cpu.py`, and what they share."""
