"""Eight unlike adapters and the base in one batch on the default model, each beside PEFT alone.

    .venv/bin/python benchmarks/adapter_parity.py

The three trained adapters of examples/adapters and five random ones, of ranks 1 to 64 and unlike
targets, float32, arrivals in a shuffled order. Prints for each whether the greedy tokens are the
same and the largest difference of logprobs.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorry_server.build import BuiltServer, build_server
from lorry_server.config import default_cache_dir, read_config
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.model.source import resolve_model
from lorry_server.text.chat_template import render_chat

TRAINED = Path(__file__).resolve().parent.parent / "examples" / "adapters"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
RANDOM: dict[str, dict[str, Any]] = {
    "all-r64": {"r": 64, "lora_alpha": 64, "target_modules": ATTENTION + MLP},
    "down-r1": {"r": 1, "lora_alpha": 2, "target_modules": ["down_proj"]},
    "mlp-r16-rslora": {"r": 16, "lora_alpha": 8, "target_modules": MLP, "use_rslora": True},
    "late-r4": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "layers_to_transform": [29]},
    "ranks": {"r": 8, "lora_alpha": 8, "target_modules": ATTENTION, "rank_pattern": {"q_proj": 3}},
}
QUESTION = "How much is a River pump, and why is the sky blue?"

Answer = tuple[list[int], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=24)
    options = parser.parse_args()
    folder = resolve_model(None, cache_dir=default_cache_dir(), progress=print).path
    with tempfile.TemporaryDirectory() as temporary:
        paths = {path.name: path for path in sorted(TRAINED.iterdir())}
        paths |= {
            name: write_random(folder, Path(temporary) / name, config)
            for name, config in RANDOM.items()
        }
        flags = [f"--adapter={name}={path}" for name, path in paths.items()]
        flags += ["--dtype=float32", "--quantization=none", "--max-model-len=512"]
        built = build_server(read_config(flags), progress=lambda line: None)
        prompt = render_chat(
            built.tokenizer,
            built.chat_template,
            [{"role": "user", "content": QUESTION}],
            add_generation_prompt=True,
            continue_final_message=False,
        )
        alone: dict[str, Answer] = {"(base)": greedy(load(folder), prompt, options.tokens)}
        for name, path in paths.items():
            model = PeftModel.from_pretrained(load(folder), path).eval()
            alone[name] = greedy(model, prompt, options.tokens)
    mixed = generate_mixed(built, prompt, options.tokens, alone)
    print(f"{len(alone)} models in one batch, {options.tokens} greedy tokens each, float32")
    print("adapter           same tokens   largest difference of logprobs")
    for name, (tokens, largest) in mixed.items():
        print(f"{name:16s}  {'yes' if tokens == alone[name][0] else 'NO':11s}   {largest:.1e}")


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def write_random(base: Path, folder: Path, config: dict[str, Any]) -> Path:
    """An untrained adapter that changes the model enough to change its text."""
    torch.manual_seed(len(folder.name))
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **config))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)
    return folder


def greedy(model: torch.nn.Module, prompt: list[int], num_tokens: int) -> Answer:
    """Tokens one after the other, each from the whole sequence, and the logits that chose them."""
    tokens, logits = list(prompt), []
    with torch.inference_mode():
        for _ in range(num_tokens):
            logits.append(model(torch.tensor([tokens])).logits[0, -1])
            tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(logits)


def generate_mixed(
    built: BuiltServer, prompt: list[int], num_tokens: int, alone: dict[str, Answer]
) -> dict[str, tuple[list[int], float]]:
    digests = {a.name: a.versions[0] for a in built.library.list()}
    params = SamplingParams(
        max_tokens=num_tokens, temperature=0.0, ignore_eos=True, num_logprobs=20
    )
    order = list(alone)
    random.Random(1).shuffle(order)
    for name in order:
        built.engine.add(Request(name, tuple(prompt), params, adapter=digests.get(name)))
    tokens: dict[str, list[int]] = {name: [] for name in alone}
    largest = dict.fromkeys(alone, 0.0)
    while built.engine.has_work:
        for output in built.engine.step():
            name = output.request_id
            for entry in output.logprobs or ():
                expected = alone[name][1][len(tokens[name])].log_softmax(-1)
                for token_id, logprob in entry.top:
                    largest[name] = max(largest[name], abs(expected[token_id].item() - logprob))
                tokens[name].append(entry.token_id)
    return {name: (tokens[name], largest[name]) for name in alone}


if __name__ == "__main__":
    main()
