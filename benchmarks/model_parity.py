"""Our decoder and engine beside transformers, in float32, on the default model.

    .venv/bin/python benchmarks/model_parity.py

Prints the largest difference of logits over whole prompts, and how many of 20 greedy
continuations of 64 tokens are identical when all 20 run in one batch of the engine.
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorry_server.build import build_server
from lorry_server.config import read_config
from lorry_server.engine.engine import Engine
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.text.chat_template import render_chat

QUESTIONS = (
    "What is the capital of France?",
    "Name three fruits that are red.",
    "Why is the sky blue?",
    "Write two lines about the sea.",
    "How many minutes are in two hours?",
    "Explain gravity to a child.",
    "What does a baker do all day?",
    "Translate 'good morning' into Spanish.",
    "Give me a name for a small bookshop.",
    "What is 17 plus 25?",
    "Who wrote Romeo and Juliet?",
    "List the seasons of the year.",
    "How do I boil an egg?",
    "What is a prime number?",
    "Describe a cat in one sentence.",
    "Which is heavier, iron or feathers?",
    "Tell me a fact about the moon.",
    "How can I sleep better?",
    "What language do people speak in Brazil?",
    "Write a short thank-you note to a neighbour.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="as for lorry serve")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    flags = ["--dtype", "float32", "--quantization", "none", "--max-model-len", "1024"]
    if options.model is not None:
        flags += ["--model", options.model]
    built = build_server(read_config(flags), progress=print)
    prompts = [
        render_chat(
            built.tokenizer,
            built.chat_template,
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            continue_final_message=False,
        )
        for question in QUESTIONS
    ]
    theirs: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        built.service.info.model_path, dtype=torch.float32
    ).eval()
    started_s = time.perf_counter()
    expected = [greedy(theirs, prompt, options.tokens) for prompt in prompts]
    theirs_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    logits = [pair[1] for pair in expected]
    tokens, largest = ours(built.engine, prompts, options.tokens, logits)
    ours_s = time.perf_counter() - started_s
    identical = sum(a == e[0] for a, e in zip(tokens, expected, strict=True))
    print(f"model                          {built.service.info.model_id}, float32")
    print(f"largest difference of logprobs {largest:.1e}")
    print(f"identical continuations        {identical} of {len(prompts)} x {options.tokens} tokens")
    print(f"seconds                        transformers {theirs_s:.1f}, ours {ours_s:.1f}")


def greedy(
    model: PreTrainedModel, prompt: list[int], num_tokens: int
) -> tuple[list[int], torch.Tensor]:
    """Tokens of transformers' own greedy generation and the logits that chose them."""
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=0,
            eos_token_id=None,
        )
    return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits)


def ours(
    engine: Engine, prompts: list[list[int]], num_tokens: int, theirs: list[torch.Tensor]
) -> tuple[list[list[int]], float]:
    """Our tokens, all prompts in one batch, and the largest difference of the logprobs.

    Logprobs are logits less a constant of their row, so a difference of logits shows in them.
    """
    params = SamplingParams(
        max_tokens=num_tokens, temperature=0.0, ignore_eos=True, num_logprobs=20
    )
    for index, prompt in enumerate(prompts):
        engine.add(Request(str(index), tuple(prompt), params))
    tokens: list[list[int]] = [[] for _ in prompts]
    largest = 0.0
    while engine.has_work:
        for output in engine.step():
            index = int(output.request_id)
            assert output.logprobs is not None
            for entry in output.logprobs:
                row = theirs[index][len(tokens[index])].log_softmax(-1)
                for token_id, logprob in entry.top:
                    largest = max(largest, abs(row[token_id].item() - logprob))
                tokens[index].append(entry.token_id)
    return tokens, largest


if __name__ == "__main__":
    main()
