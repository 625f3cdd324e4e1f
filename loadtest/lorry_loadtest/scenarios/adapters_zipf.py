"""Many adapters of very different popularity: the k-th is asked for 1/k^1.1 as often as the first.

A few adapters have most of the requests and a long tail has hardly any. It shows what a batch of many
adapters costs, and, where there are more adapters than slots, what the cold ones pay. Canaries ask
now and then for answers that are known, and would find one adapter's weights in another's answer.
"""

from __future__ import annotations

from locust import task

from lorry_loadtest.lengths import Lengths
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import LLMUser


class AdaptersZipf(LLMUser):
    scenario = "adapters_zipf"
    arrival = "poisson:2"
    adapter_mix = "zipf:1.1"  # over the adapters that the server lists
    lengths = Lengths.lognormal(mean=64, sigma=0.6, lo=16, hi=256)
    canary_share = 0.02

    @task
    def ask(self) -> None:
        self.generate()


add_options()
