"""Short questions beside long answers: does who wants little wait for who wants much?

One request in five has a long prompt and a long answer, the others are short. A server that batches
requests as a whole makes the short ones wait for the long; one that batches by the step does not, and
one that computes long prompts in chunks does not even let their prefill be felt. Compare the short
requests' TTFT and TPOT here with a run of short ones alone.
"""

from __future__ import annotations

from locust import task

from lorry_loadtest.lengths import Lengths
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.prompts import Prompts
from lorry_loadtest.users import LLMUser
from lorry_loadtest.workload import Variant


class LongAndShort(LLMUser):
    scenario = "long_and_short"
    arrival = "poisson:2"
    variants = (
        Variant(0.8, Prompts.random("16:64"), Lengths.const(16)),
        Variant(0.2, Prompts.random(384), Lengths.const(256)),
    )

    @task
    def ask(self) -> None:
        self.generate()


add_options()
