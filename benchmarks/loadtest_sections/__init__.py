"""The parts of the benchmark of the load test's stamps."""
