"""Output tokens per second of the server over HTTP, beside transformers' static `generate`.

    .venv/bin/python benchmarks/http_throughput.py

A closed loop: `c` requests are always in flight, each with a random prompt of 128 words and
exactly 64 new tokens, greedy. transformers generates the same number of sequences of the same
lengths in static batches of `c`. Both in one run, in turn; the ratio is what to quote.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lorry
from lorry_loadtest.local_server import local_server
from lorry_server.config import default_cache_dir
from lorry_server.model.source import resolve_model

WORDS = [
    "river",
    "stone",
    "window",
    "garden",
    "summer",
    "letter",
    "market",
    "engine",
    "silver",
    "forest",
    "bridge",
    "candle",
    "winter",
    "paper",
    "island",
    "mountain",
    "harbour",
    "teacher",
    "orange",
    "station",
    "blanket",
    "mirror",
    "pocket",
    "village",
    "kitchen",
    "doctor",
    "number",
    "morning",
    "shadow",
    "bottle",
    "travel",
    "number",
    "circle",
    "history",
    "metal",
    "corner",
]
ADAPTERS = ("pirate", "pricing", "supply-chain")
ADAPTER_FOLDER = Path(__file__).resolve().parent.parent / "examples" / "adapters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concurrency", default="1,4,16")
    parser.add_argument("--prompt-words", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--quantization", default="auto")
    options = parser.parse_args()
    levels = [int(level) for level in options.concurrency.split(",")]
    flags = [f"--adapter={name}={ADAPTER_FOLDER / name}" for name in ADAPTERS]
    flags.append(f"--quantization={options.quantization}")
    rows = {}
    with local_server(flags) as base_url:
        for level in levels:
            base = asyncio.run(closed_loop(base_url, level, options, names=(None,)))
            mixed = asyncio.run(closed_loop(base_url, level, options, names=(None, *ADAPTERS)))
            rows[level] = (base, mixed)
    static = {level: static_batches(level, options) for level in levels}
    print("output tokens/s, prompt of 128 words, 64 new tokens")
    print(
        "  c   lorry base   with adapters   transformers   base/transformers   TTFT p50   TPOT p50"
    )
    for level in levels:
        base, mixed = rows[level]
        print(
            f"{level:3d}   {base.tokens_per_s:10.1f}   {mixed.tokens_per_s:13.1f}   "
            f"{static[level]:12.1f}   {base.tokens_per_s / static[level]:17.2f}   "
            f"{base.ttft_ms:5.0f} ms   {base.tpot_ms:5.1f} ms"
        )


class Result:
    """One level's figures, from the requests' own timings."""

    def __init__(self, generations: list[lorry.Generation], seconds: float) -> None:
        self.tokens_per_s = sum(g.usage.completion_tokens for g in generations) / seconds
        self.ttft_ms = 1e3 * statistics.median(g.timing.ttft for g in generations)
        self.tpot_ms = 1e3 * statistics.median(g.timing.tpot or 0.0 for g in generations)


async def closed_loop(
    base_url: str, level: int, options: argparse.Namespace, *, names: tuple[str | None, ...]
) -> Result:
    """`level` streams at a time; adapters in turn."""
    rng = random.Random(level)
    count = max(4 * level, 8)
    prompts = [prompt(rng, options.prompt_words) for _ in range(count)]
    async with lorry.AsyncClient(base_url) as client:
        await client.generate("warm up", max_tokens=4)
        queue = iter(enumerate(prompts))
        done: list[lorry.Generation] = []

        async def worker() -> None:
            for index, text in queue:
                stream = client.stream(
                    text,
                    adapter=names[index % len(names)],
                    max_tokens=options.tokens,
                    min_tokens=options.tokens,
                    ignore_eos=True,
                    temperature=0.0,
                )
                async with stream:
                    done.append(await stream.final())

        started_s = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(level)))
        return Result(done, time.perf_counter() - started_s)


def static_batches(level: int, options: argparse.Namespace) -> float:
    """Tokens per second of transformers, bfloat16, `level` sequences per batch."""
    source = resolve_model(None, cache_dir=default_cache_dir(), progress=print)
    tokenizer = AutoTokenizer.from_pretrained(source.path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.bfloat16).eval()
    rng = random.Random(level)
    num_batches = 2
    batches = [
        tokenizer(
            [prompt(rng, options.prompt_words) for _ in range(level)],
            return_tensors="pt",
            padding=True,
        )
        for _ in range(num_batches)
    ]
    lengths = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens}
    with torch.inference_mode():
        model.generate(**batches[0], max_new_tokens=2, do_sample=False)
        started_s = time.perf_counter()
        for batch in batches:
            model.generate(**batch, **lengths, do_sample=False)
        return num_batches * level * options.tokens / (time.perf_counter() - started_s)


def prompt(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


if __name__ == "__main__":
    main()
