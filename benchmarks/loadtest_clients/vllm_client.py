"""The client of `vllm bench serve`, for `benchmarks/loadtest_stamps.py`: its request function on its
session. It needs no tokenizer."""

from __future__ import annotations

from typing import Any

import aiohttp
from jobs import answer_jobs, on_schedule
from vllm.benchmarks.lib.endpoint_request_func import (
    RequestFuncInput,
    RequestFuncOutput,
    async_request_openai_completions,
)
from vllm.utils.gc_utils import freeze_gc_heap

Told = tuple[str, RequestFuncOutput]


async def run(job: dict[str, Any]) -> list[Told]:
    freeze_gc_heap()  # as it does before a run
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:

        async def ask(number: int) -> Told:
            name = f"vllm-{number}"
            output = await async_request_openai_completions(
                RequestFuncInput(
                    prompt="a b",
                    api_url=f"{job['url']}/v1/completions",
                    prompt_len=2,
                    output_len=job["num_tokens"],
                    model="mock-base",
                    request_id=name,
                ),
                session=session,
            )
            if not output.success:
                raise RuntimeError(output.error)
            return name, output

        return await on_schedule(job["times_ns"], ask)


def stamps_of(told: Told) -> tuple[str, list[int]]:
    """Its record is the start, the time to the first chunk and the gaps after it."""
    name, output = told
    at_s = output.start_time + output.ttft
    stamps = [round(at_s * 1e9)]
    for gap_s in output.itl:
        at_s += gap_s
        stamps.append(round(at_s * 1e9))
    return name, stamps


if __name__ == "__main__":
    answer_jobs("vllm", run, stamps_of)
