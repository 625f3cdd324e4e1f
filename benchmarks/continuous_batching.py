"""A short request that arrives while a long one runs: continuous batching beside a static batch.

    .venv/bin/python benchmarks/continuous_batching.py

Starts a server, sends a request of 400 tokens, and a second later one of 10. Then the same two as
one static batch of transformers' `generate`, where both are answered when the longer one ends.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lorry
from lorry_loadtest.local_server import local_server
from lorry_server.config import default_cache_dir
from lorry_server.model.source import resolve_model

LONG_PROMPT = "Once upon a time there was a lighthouse keeper who"
SHORT_PROMPT = "The three primary colours are"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", type=int, default=400)
    parser.add_argument("--short", type=int, default=10)
    parser.add_argument("--delay", type=float, default=1.0, help="seconds before the short one")
    options = parser.parse_args()
    with local_server() as base_url:
        long_s, short_s = asyncio.run(continuous(base_url, options))
    static_s = static(options)
    print(
        f"                       {options.long} tokens   {options.short} tokens, sent later   share"
    )
    print(f"continuous batching    {long_s:8.2f} s   {short_s:10.2f} s   {short_s / long_s:16.3f}")
    print(f"static batch           {static_s:8.2f} s   {static_s:10.2f} s   {1.0:16.3f}")
    print()
    print(f"long   |{'=' * 60}| {long_s:.2f} s")
    begin = round(60 * options.delay / long_s)
    width = max(1, round(60 * short_s / long_s))
    print(f"short  |{' ' * begin}{'=' * width:<{60 - begin}}| {short_s:.2f} s")


async def continuous(base_url: str, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds from sending to the last token, of the long and of the short request."""
    async with lorry.AsyncClient(base_url) as client:
        await client.generate("warm up", max_tokens=4)

        async def timed(prompt: str, max_tokens: int) -> float:
            started_s = time.perf_counter()
            await client.generate(prompt, max_tokens=max_tokens, ignore_eos=True, temperature=0.0)
            return time.perf_counter() - started_s

        long_request = asyncio.create_task(timed(LONG_PROMPT, options.long))
        await asyncio.sleep(options.delay)
        short_s = await timed(SHORT_PROMPT, options.short)
        return await long_request, short_s


def static(options: argparse.Namespace) -> float:
    """Seconds of one padded batch that runs until its longest member is done."""
    source = resolve_model(None, cache_dir=default_cache_dir(), progress=print)
    tokenizer = AutoTokenizer.from_pretrained(source.path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.bfloat16).eval()
    batch = tokenizer([LONG_PROMPT, SHORT_PROMPT], return_tensors="pt", padding=True)
    with torch.inference_mode():
        model.generate(**batch, max_new_tokens=4, do_sample=False)
        started_s = time.perf_counter()
        model.generate(
            **batch, max_new_tokens=options.long, min_new_tokens=options.long, do_sample=False
        )
        return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
