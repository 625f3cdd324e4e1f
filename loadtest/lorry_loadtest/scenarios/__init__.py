"""Loads that come with the load test, each a locustfile: `locust -f` one of these files, or
`lorry loadtest --scenario NAME`. docs/loadtest.md tells what each is for."""

from __future__ import annotations

# In the order in which they are explained.
SCENARIOS: tuple[str, ...] = (
    "closed_loop",
    "open_loop_poisson",
    "adapters_zipf",
    "adapter_churn",
    "long_and_short",
    "shared_prefix",
    "burst",
    "soak",
)
