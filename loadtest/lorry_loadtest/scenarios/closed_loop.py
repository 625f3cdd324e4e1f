"""A fixed number of users, each with one request after the other: throughput at a concurrency.

The load follows the server: while it is slow, less is asked. So this shows what the server can do with
N streams, and hides how long a queue would grow; `open_loop_poisson` shows that.
"""

from __future__ import annotations

from locust import task

from lorry_loadtest.lengths import Lengths
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import LLMUser


class ClosedLoop(LLMUser):
    scenario = "closed_loop"
    lengths = Lengths.uniform(16, 96)

    @task
    def ask(self) -> None:
        self.generate()


add_options()
