"""What the KV cache is worth: one greedy generation by recomputing everything, and with the cache.

    .venv/bin/python benchmarks/kv_cache.py

Both run our decoder with the same weights on one sequence. Prints whether the tokens are
identical, and the time ratio.
"""

from __future__ import annotations

import argparse
import time

from lorry_server.build import build_server
from lorry_server.config import default_cache_dir, read_config
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.model.source import resolve_model
from lorry_server.text.tokenizer import Tokenizer

PROMPT = "The harbour was quiet when the first ship came in, and the people of the town"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--quantization", default="none", choices=("none", "int8"))
    options = parser.parse_args()
    source = resolve_model(None, cache_dir=default_cache_dir(), progress=print)
    prompt = Tokenizer.from_folder(source.path).encode(PROMPT)
    times, tokens = {}, {}
    for name in ("off", "on"):
        engine = build_server(
            read_config(
                [
                    *("--quantization", options.quantization),
                    *("--max-model-len", "1024"),
                    *("--max-num-seqs", "1"),
                    "--no-prefix-caching",
                ]
            ),
            progress=lambda line: None,
        ).engine
        started_s = time.perf_counter()
        if name == "on":
            engine.add(request(prompt, options.tokens))
            produced = []
            while engine.has_work:
                produced += [token for output in engine.step() for token in output.token_ids]
        else:
            # A cache that is forgotten after every token: each request computes the whole
            # sequence again and asks for one more.
            produced = []
            for _ in range(options.tokens):
                engine.add(request(prompt + produced, 1))
                while engine.has_work:
                    produced += [token for output in engine.step() for token in output.token_ids]
        times[name], tokens[name] = time.perf_counter() - started_s, produced
    print(f"{options.tokens} tokens after {len(prompt)}, {options.quantization} weights, float32")
    print(f"identical tokens   {'yes' if tokens['on'] == tokens['off'] else 'NO'}")
    print(f"cache off          {times['off']:7.2f} s")
    print(f"cache on           {times['on']:7.2f} s")
    print(f"ratio off / on     {times['off'] / times['on']:7.2f}")


def request(token_ids: list[int], num_tokens: int) -> Request:
    params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
    return Request("one", tuple(token_ids), params)


if __name__ == "__main__":
    main()
