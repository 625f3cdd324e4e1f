"""Popularity that moves: every ten seconds the hot adapters are other ones.

Each turn leaves a working set that the server has just made resident, and asks for one that it has
not. Look at the slowest requests after each turn, and at the cold loads of each adapter.
"""

from __future__ import annotations

from locust import task

from lorry_loadtest.lengths import Lengths
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import LLMUser


class AdapterChurn(LLMUser):
    scenario = "adapter_churn"
    arrival = "poisson:2"
    adapter_mix = "zipf:1.5:rotate:10s"
    lengths = Lengths.uniform(16, 64)
    canary_share = 0.02

    @task
    def ask(self) -> None:
        self.generate()


add_options()
