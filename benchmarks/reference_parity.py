"""Greedy text of the compiled runner beside the reference runner's, with the same int8 weights.

    .venv/bin/python benchmarks/reference_parity.py [--prompts N] [--tokens N] [--quantization Q]

Each prompt goes to the default model and to one of the three adapters of examples/adapters, in
turn. The reference computes them 16 at a time; the compiled runner one at a time, and then again in
mixed batches of base and adapters, in another order, arriving while others are under way. Prints
how many texts are the same to the last token. Exits with status 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from lorry_server.build import BuiltServer, build_server
from lorry_server.config import read_config
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.text.chat_template import render_chat

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ADAPTERS = ("pirate", "pricing", "supply-chain")
BASE = "(base)"
BATCH = 16
MAX_TOKENS = 512

Texts = dict["Case", tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Case:
    """A question, and the adapter that answers it, or the base."""

    question: str
    model: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--quantization", choices=("int8", "int4", "zero-one"), default="int8")
    options = parser.parse_args()
    if not 1 <= options.tokens <= MAX_TOKENS:
        parser.error(f"argument --tokens: {options.tokens} is not between 1 and {MAX_TOKENS}")
    questions = read_questions()
    if not 1 <= options.prompts <= len(questions):
        parser.error(f"argument --prompts: {options.prompts} is not between 1 and {len(questions)}")
    asked = questions[: options.prompts]
    cases = [Case(question, BASE) for question in asked]
    cases += [Case(question, ADAPTERS[i % len(ADAPTERS)]) for i, question in enumerate(asked)]

    reference = build(options.quantization, "torch")
    expected: Texts = {}
    for first in range(0, len(cases), BATCH):
        batch = cases[first : first + BATCH]
        expected |= generate(reference, batch, options.tokens)
        say(f"reference: {len(expected)} of {len(cases)}")
    del reference
    compiled = build(options.quantization, "auto")
    alone: Texts = {}
    for case in cases:
        alone |= generate(compiled, [case], options.tokens)
        say(f"compiled, one at a time: {len(alone)} of {len(cases)}")
    shuffled = random.Random(1).sample(cases, len(cases))
    mixed = generate(compiled, shuffled, options.tokens, steps_between=3)

    print(
        f"greedy texts of {options.tokens} tokens, {options.quantization}: the same as the reference"
    )
    print("                    base      with adapters")
    is_same = True
    for name, texts in (("one at a time", alone), ("in mixed batches", mixed)):
        base, adapted = (
            [texts[case] == expected[case] for case in cases if (case.model == BASE) is is_base]
            for is_base in (True, False)
        )
        is_same = is_same and all(base) and all(adapted)
        print(f"{name:16s}  {share(base):>8s}   {share(adapted):>8s}")
        for case in cases:
            report_difference(case, texts[case], expected[case])
    print(f"different texts among them: {len(set(expected.values()))} of {len(expected)}")
    sys.exit(0 if is_same else 1)


def read_questions() -> list[str]:
    """The held-out questions of the three adapters, in turn."""
    files = [EXAMPLES / "data" / f"{name}.held-out.jsonl" for name in ADAPTERS]
    columns = [
        [json.loads(line)["question"] for line in file.read_text(encoding="utf-8").splitlines()]
        for file in files
    ]
    rows = zip_longest(*columns)
    return list(dict.fromkeys(question for row in rows for question in row if question))


def build(quantization: str, kernels: str) -> BuiltServer:
    flags = [f"--adapter={name}={EXAMPLES / 'adapters' / name}" for name in ADAPTERS]
    flags += ["--device=cpu", f"--quantization={quantization}", f"--cpu-kernels={kernels}"]
    flags += ["--max-model-len=1024", f"--max-num-seqs={BATCH}", "--kv-cache-memory=512MiB"]
    return build_server(read_config(flags), progress=say)


def generate(
    built: BuiltServer, cases: Sequence[Case], num_tokens: int, *, steps_between: int = 0
) -> Texts:
    """The tokens of each case. One arrives every `steps_between` steps, or all at once."""
    digests = {a.name: a.versions[0] for a in built.library.list()}
    params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
    tokens: dict[str, list[int]] = {str(index): [] for index in range(len(cases))}
    waiting = arrivals(built, cases, params, digests)
    begun, num_steps = time.monotonic(), 0
    request = next(waiting, None)
    while request is not None or built.engine.has_work:
        while request is not None and (not steps_between or num_steps % steps_between == 0):
            built.engine.add(request)
            request = next(waiting, None)
            if steps_between:
                break
        for output in built.engine.step():
            tokens[output.request_id] += output.token_ids
        num_steps += 1
    if len(cases) > 1:
        say(f"  {num_steps} steps in {time.monotonic() - begun:.1f} s")
    return {case: tuple(tokens[str(index)]) for index, case in enumerate(cases)}


def arrivals(
    built: BuiltServer, cases: Sequence[Case], params: SamplingParams, digests: dict[str, str]
) -> Iterator[Request]:
    for index, case in enumerate(cases):
        prompt = render_chat(
            built.tokenizer,
            built.chat_template,
            [{"role": "user", "content": case.question}],
            add_generation_prompt=True,
            continue_final_message=False,
        )
        yield Request(str(index), tuple(prompt), params, adapter=digests.get(case.model))


def report_difference(case: Case, given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if given != expected:
        pairs = zip(given, expected, strict=False)
        at = next((place for place, (a, b) in enumerate(pairs) if a != b), len(given))
        say(f"  {case.model}, {case.question!r}: differs from token {at} on")


def share(same: Sequence[bool]) -> str:
    return f"{sum(same)}/{len(same)}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
