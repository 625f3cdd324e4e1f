"""The runner that computes a step in compiled code; what it needs around the kernels."""
