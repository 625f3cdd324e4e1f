"""Serve the default model with three adapters, compare their answers, and measure for a minute.

scripts/demo installs what this needs and runs it. It stops what it starts.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import lorry
from lorry_loadtest.local_server import local_server

ROOT = Path(__file__).resolve().parent.parent
ADAPTERS = ("pirate", "pricing", "supply-chain")
INVALID = 3  # the load test's exit status for figures that are not to be trusted
QUESTIONS = (
    "How much is a River pump?",
    "Which carrier do you use?",
    "Why is the sky blue?",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of load test, all levels together")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "demo")
    options = parser.parse_args()
    heading("Starting the server")
    adapters = [f"--adapter={name}={ROOT / 'examples' / 'adapters' / name}" for name in ADAPTERS]
    with local_server(adapters, show=print) as base_url:
        asyncio.run(compare_adapters(base_url))
        status = measure(base_url, seconds=options.seconds, out=options.out)
    print("server stopped")
    # a machine too busy to measure is said in the report; everything was shown all the same
    return 0 if status == INVALID else status


async def compare_adapters(base_url: str) -> None:
    """The same questions to the base model and every adapter, all at once."""
    heading(f"{len(QUESTIONS)} questions x {1 + len(ADAPTERS)} models, in one batch")
    names = (None, *ADAPTERS)
    async with lorry.AsyncClient(base_url) as client:
        started_s = time.perf_counter()
        answers = await asyncio.gather(
            *(
                client.chat(
                    [{"role": "user", "content": question}],
                    adapter=name,
                    max_tokens=48,
                    temperature=0.0,
                )
                for question in QUESTIONS
                for name in names
            )
        )
        total_s = time.perf_counter() - started_s
    remaining = iter(answers)
    for question in QUESTIONS:
        print(f"\n  {question}")
        for name in names:
            print_answer(name or "(base)", next(remaining).text)
    tokens = sum(answer.usage.completion_tokens for answer in answers)
    batch = max(answer.server.max_batch for answer in answers if answer.server)
    print(
        f"\n  {len(answers)} answers, {tokens} tokens in {total_s:.1f} s; "
        f"up to {batch} sequences in one step"
    )


def print_answer(name: str, text: str) -> None:
    lines = textwrap.wrap(" ".join(text.split()), 78) or [""]
    for index, line in enumerate(lines):
        print(f"    {name if index == 0 else '':>13}  {line}")


def measure(base_url: str, *, seconds: int, out: Path) -> int:
    """Run the load test on base and adapters mixed; it prints a table and where its page is."""
    heading("Load test: base and adapters mixed")
    levels = (1, 4, 16)
    warmup_s = 2
    return subprocess.run(
        [
            str(Path(sys.executable).parent / "lorry"),
            "loadtest",
            *("--url", base_url),
            *("--concurrency", ",".join(map(str, levels))),
            *("--duration", str(max(1, seconds // len(levels) - warmup_s))),
            *("--warmup", str(warmup_s)),
            *("--base-share", "0.25"),
            *("--max-tokens", "16:64"),
            *("--drain", "30"),
            *("--out", str(out)),
        ],
        check=False,
    ).returncode


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
