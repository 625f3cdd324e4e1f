"""Requests that come when they come, as from many users who do not know of each other.

Arrivals are a Poisson process, so now and then several come at once. Latency counts from the planned
arrival: what a user waits in a queue is in it, wherever that queue is.
"""

from __future__ import annotations

from locust import task

from lorry_loadtest.lengths import Lengths
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import LLMUser


class OpenLoopPoisson(LLMUser):
    scenario = "open_loop_poisson"
    arrival = "poisson:2"
    lengths = Lengths.lognormal(mean=64, sigma=0.6, lo=16, hi=256)
    slo = "ttft_p95<500ms,tpot_p95<60ms"

    @task
    def ask(self) -> None:
        self.generate()


add_options()
