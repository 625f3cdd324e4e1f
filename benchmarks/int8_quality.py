"""How close quantized weights and caches stay to float32: agreement and perplexity on English prose.

    .venv/bin/python benchmarks/int8_quality.py

Scores the repository's own documentation with the default model, once per kind of weights and KV
cache, through the engine's prompt logprobs. Prints the share of positions at which the likeliest token is the same
as in float32, the mean distance of the true token's logprob, and the perplexity.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from lorry_server.build import build_server
from lorry_server.config import read_config
from lorry_server.engine.outputs import TokenLogprobs
from lorry_server.engine.request import Request, SamplingParams

DOCS = Path(__file__).resolve().parent.parent / "docs"
VARIANTS = {
    "float32": ("--quantization", "none"),
    "bfloat16": ("--dtype", "bfloat16", "--quantization", "none"),
    "int8": ("--quantization", "int8"),
    "int8, float32 cache": ("--quantization", "int8", "--kv-cache-dtype", "float32"),
    "int4": ("--quantization", "int4"),
    "zero-one": ("--quantization", "zero-one"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=400, help="tokens per prompt")
    parser.add_argument("--windows", type=int, default=6)
    options = parser.parse_args()
    text = "\n\n".join(file.read_text() for file in sorted(DOCS.glob("*.md")))
    scores = {name: score(flags, text, options) for name, flags in VARIANTS.items()}
    exact = scores["float32"]
    print(f"{len(exact)} tokens of docs/*.md, SmolLM2-135M-Instruct")
    print("weights               same likeliest token   mean |difference of logprob|   perplexity")
    for name, entries in scores.items():
        pairs = list(zip(entries, exact, strict=True))
        same = sum(a.top[0][0] == b.top[0][0] for a, b in pairs) / len(pairs)
        distance = sum(abs(a.logprob - b.logprob) for a, b in pairs) / len(pairs)
        perplexity = math.exp(-sum(a.logprob for a in entries) / len(entries))
        print(f"{name:20s}  {same:18.1%}   {distance:26.4f}   {perplexity:10.3f}")


def score(flags: tuple[str, ...], text: str, options: argparse.Namespace) -> list[TokenLogprobs]:
    """Logprob of every token but the first of each window, and the likeliest at its place."""
    config = read_config(["--device", "cpu", *flags, "--max-model-len", "1024"])
    built = build_server(config, progress=lambda _: None)
    token_ids = built.tokenizer.encode(text)
    params = SamplingParams(max_tokens=1, temperature=0.0, num_prompt_logprobs=1)
    entries: list[TokenLogprobs] = []
    for index in range(options.windows):
        window = token_ids[index * options.window : (index + 1) * options.window]
        built.engine.add(Request(str(index), tuple(window), params))
        while built.engine.has_work:
            for output in built.engine.step():
                if output.prompt_logprobs is not None:
                    entries += output.prompt_logprobs[1:]
    return entries


if __name__ == "__main__":
    main()
