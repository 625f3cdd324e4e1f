"""A moderate load for a long time, with users who leave: what grows, leaks or drifts.

A user waits half a minute on the mean and then goes away; the server has to notice and free what the
answer held. Run it for an hour (`--duration 3600`, or `-t 1h`) and compare its first minutes with
its last ones: latency, memory, blocks in use.
"""

from __future__ import annotations

from locust import task

from lorry_loadtest.lengths import Lengths
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.prompts import Prompts
from lorry_loadtest.users import LLMUser


class Soak(LLMUser):
    scenario = "soak"
    arrival = "poisson:1"
    adapter_mix = "zipf:1.0"
    prompts = Prompts.multi_turn(turns=4, words="16:64", sessions=8)
    lengths = Lengths.lognormal(mean=64, sigma=0.6, lo=16, hi=256)
    route = "chat"
    canary_share = 0.01
    patience_s = 30.0

    @task
    def ask(self) -> None:
        self.generate()


add_options()
