"""Runs the client of `vllm bench serve` on a schedule, for `benchmarks/loadtest_stamps.py`.

Reads a JSON object with `url`, `num_tokens` and `times_ns` from standard input, and prints one with
the stamps of each stream by request id, on the monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
from vllm.benchmarks.lib.endpoint_request_func import (
    RequestFuncInput,
    async_request_openai_completions,
)


async def run(asked: dict[str, Any]) -> dict[str, list[int]]:
    stamps: dict[str, list[int]] = {}
    start_s = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:

        async def ask(number: int, at_ns: int) -> None:
            await asyncio.sleep(max(0.0, start_s + at_ns / 1e9 - time.perf_counter()))
            name = f"vllm-{number}"
            output = await async_request_openai_completions(
                RequestFuncInput(
                    prompt="a b",
                    api_url=f"{asked['url']}/v1/completions",
                    prompt_len=2,
                    output_len=asked["num_tokens"],
                    model="mock-base",
                    request_id=name,
                ),
                session=session,
            )
            if not output.success:
                return
            # its record is the start, the time to the first chunk and the gaps after it
            at_s = output.start_time + output.ttft
            own = stamps[name] = [round(at_s * 1e9)]
            for gap_s in output.itl:
                at_s += gap_s
                own.append(round(at_s * 1e9))

        await asyncio.gather(*(ask(n, at_ns) for n, at_ns in enumerate(asked["times_ns"])))
    return stamps


def main() -> None:
    asked = json.load(sys.stdin)
    cpu_s, start_s = time.process_time(), time.perf_counter()
    stamps = asyncio.run(run(asked))
    told = {
        "stamps": stamps,
        "cpu_s": time.process_time() - cpu_s,
        "wall_s": time.perf_counter() - start_s,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
