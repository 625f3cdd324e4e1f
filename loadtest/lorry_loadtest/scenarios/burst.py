"""The same mean rate, but in bursts: gaps between arrivals of three times their mean's deviation.

Means look like those of a steady load, and the tail does not: what comes at once has to wait for
itself. It shows the queue, the limit of admission (429) and how fast both clear.
"""

from __future__ import annotations

from locust import task

from lorry_loadtest.lengths import Lengths
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import LLMUser


class Burst(LLMUser):
    scenario = "burst"
    arrival = "gamma:2:cv=3"
    lengths = Lengths.uniform(16, 64)

    @task
    def ask(self) -> None:
        self.generate()


add_options()
