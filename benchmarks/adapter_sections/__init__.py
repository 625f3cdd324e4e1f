"""The sections of `benchmarks/adapters.py`."""
