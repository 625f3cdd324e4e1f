"""Prompts that begin alike: eight system prompts of 256 words, and 32 words of one's own after one.

What a prefix cache is worth. The report tells the share of prompt tokens that came out of it beside
the share that could have; without a cache, TTFT is that of the whole prompt.
"""

from __future__ import annotations

from locust import task

from lorry_loadtest.lengths import Lengths
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.prompts import Prompts
from lorry_loadtest.users import LLMUser


class SharedPrefixes(LLMUser):
    scenario = "shared_prefix"
    arrival = "poisson:2"
    prompts = Prompts.shared_prefix(prefix=256, unique=32, groups=8)
    lengths = Lengths.uniform(16, 64)

    @task
    def ask(self) -> None:
        self.generate()


add_options()
