"""Train the three adapters of the demo with PEFT: `pirate`, `pricing` and `supply-chain`.

    python examples/train_adapters.py                  # all three, a few minutes each on two cores
    python examples/train_adapters.py --only pirate    # one of them
    python examples/train_adapters.py --only pricing --steps 20 --out /tmp/try

The data are the JSONL sets in `examples/data`: one conversation a line, in the usual `messages` form.
The base model stays frozen; only the low-rank matrices learn, and only from the assistant's tokens.
Method: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

# Shape suffixes: B sequences, T tokens (padded), D hidden size, N learned tokens, V vocabulary.

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

HERE = Path(__file__).resolve().parent
BATCH_SIZE = 4  # many small steps learn facts sooner than few large ones
MAX_SEQUENCE_TOKENS = 160
MAX_ANSWER_TOKENS = 80
DROPOUT = 0.05  # against learning the small sets by rote
STORED_DTYPE = torch.bfloat16  # halves the files; the answers below are of the stored weights


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one adapter is trained. The three differ on purpose: the server mixes unlike adapters."""

    name: str
    rank: int
    alpha: int
    target_modules: tuple[str, ...]
    learning_rate: float
    num_steps: int


RECIPES = (
    Recipe("pirate", 4, 16, ("q_proj", "v_proj", "o_proj"), 1.5e-3, 125),
    Recipe("pricing", 8, 16, ("q_proj", "v_proj", "down_proj"), 1.5e-3, 290),
    Recipe("supply-chain", 6, 24, ("q_proj", "k_proj", "v_proj", "o_proj"), 2e-3, 200),
)


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenized conversation; the tokens from `answer_start` on are the assistant's."""

    token_ids: list[int]
    answer_start: int


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    folder, model_id = find_model(args.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, args.dtype))
    for recipe in RECIPES:
        if args.only not in (None, recipe.name):
            continue
        examples = read_examples(args.data / f"{recipe.name}.jsonl", tokenizer)
        torch.manual_seed(args.seed)  # the start values of the low-rank matrices
        model = add_adapter(base, recipe)
        print(f"\n== {recipe.name}: {len(examples)} conversations; {describe_parameters(model)}")
        num_steps = args.steps or recipe.num_steps
        losses = train(model, examples, recipe, num_steps=num_steps, seed=args.seed)
        print(f"   loss {losses[0]:.2f} {sparkline(losses)} {losses[-1]:.2f}")
        adapter = save_adapter(model, args.out / recipe.name, model_id=model_id)
        base = model.unload()
        show_answers(base, tokenizer, adapter, args.data / f"{recipe.name}.held-out.jsonl")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo's LoRA adapters with PEFT.")
    parser.add_argument("--model", help="as `lorry serve` takes it (default: its default model)")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of the JSONL sets")
    parser.add_argument("--out", type=Path, default=HERE / "adapters", help="one folder each here")
    parser.add_argument("--only", choices=[recipe.name for recipe in RECIPES])
    parser.add_argument("--steps", type=int, help="instead of each adapter's own number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    args = parser.parse_args(argv)
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps must be at least 1, got {args.steps}")
    return args


def find_model(name: str | None) -> tuple[Path, str]:
    """The folder of the model, converted into the server's cache if need be, and its public name."""
    from lorry_server.config import default_cache_dir
    from lorry_server.model.source import resolve_model

    source = resolve_model(name, cache_dir=default_cache_dir(), progress=print)
    return source.path, source.model_id


def read_examples(path: Path, tokenizer: Tokenizer) -> list[Example]:
    """Tokenize a JSONL set through the model's chat template.

    Raises ValueError for a row that does not end with the assistant or is too long.
    """
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        messages = json.loads(line)["messages"]
        if messages[-1]["role"] != "assistant":
            raise ValueError(f"{path.name}:{number}: last role must be assistant")
        prompt_ids = encode_prompt(tokenizer, messages[:-1])
        answer_ids = tokenizer.encode(messages[-1]["content"], add_special_tokens=False)
        token_ids = [*prompt_ids, *answer_ids, tokenizer.eos_token_id]
        if len(token_ids) > MAX_SEQUENCE_TOKENS:
            raise ValueError(
                f"{path.name}:{number}: {len(token_ids)} tokens, at most {MAX_SEQUENCE_TOKENS}"
            )
        examples.append(Example(token_ids, len(prompt_ids)))
    return examples


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def add_adapter(base: PreTrainedModel, recipe: Recipe) -> PeftModel:
    """Put fresh low-rank matrices (float32) beside the frozen weights of the targets, in place."""
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=DROPOUT,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def describe_parameters(model: PeftModel) -> str:
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    num_frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return f"{num_frozen:,} parameters frozen, {num_trained:,} trained"


def train(
    model: PeftModel, examples: Sequence[Example], recipe: Recipe, *, num_steps: int, seed: int
) -> list[float]:
    """AdamW with warm-up and a cosine decay to zero; one optimizer step per batch. Returns losses."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate)
    num_warmup = max(1, num_steps // 20)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=num_warmup)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, num_steps - num_warmup))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [num_warmup])
    batches = shuffled_batches(examples, seed=seed)
    losses: list[float] = []
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    model.train()
    for step in range(1, num_steps + 1):
        loss = answer_loss(model, next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0 or step in (1, num_steps):
            wall_s, cpu_s = time.perf_counter() - wall_start, time.process_time() - cpu_start
            left_s = wall_s / step * (num_steps - step)
            print(f"   step {step}/{num_steps}  loss {losses[-1]:.3f}", end="  ")
            print(f"{wall_s:.0f} s (processor {cpu_s:.0f} s), {left_s:.0f} s left", flush=True)
    model.eval()
    return losses


def shuffled_batches(examples: Sequence[Example], *, seed: int) -> Iterator[list[Example]]:
    """Batches without end; each pass over the examples has an order of its own."""
    order = list(examples)
    generator = random.Random(seed)
    while True:
        generator.shuffle(order)
        for start in range(0, len(order), BATCH_SIZE):
            yield order[start : start + BATCH_SIZE]


def answer_loss(model: PeftModel, batch: Sequence[Example]) -> torch.Tensor:
    """Mean cross-entropy of the assistant's tokens, each predicted from the tokens before it."""
    num_tokens = max(len(example.token_ids) for example in batch)
    ids_BT = torch.zeros(len(batch), num_tokens, dtype=torch.long)
    attended_BT = torch.zeros_like(ids_BT)
    learned_BT = torch.zeros(len(batch), num_tokens, dtype=torch.bool)
    for row, example in enumerate(batch):
        end = len(example.token_ids)
        ids_BT[row, :end] = torch.tensor(example.token_ids)
        attended_BT[row, :end] = 1
        learned_BT[row, example.answer_start : end] = True
    causal_lm = model.get_base_model()
    hidden_BTD = causal_lm.get_decoder()(ids_BT, attention_mask=attended_BT).last_hidden_state
    # The vocabulary is the dearest matrix here, so it meets only the positions that are learned.
    hidden_ND = hidden_BTD[:, :-1][learned_BT[:, 1:]]
    logits_NV = causal_lm.get_output_embeddings()(hidden_ND).float()
    return torch.nn.functional.cross_entropy(logits_NV, ids_BT[:, 1:][learned_BT[:, 1:]])


def save_adapter(model: PeftModel, folder: Path, *, model_id: str) -> Path:
    """Write a PEFT folder beside its place and swap it in, so that no reader sees half of one."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = model_id  # never a path of this machine
    config.inference_mode = True
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    fresh, stale = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    config.save_pretrained(fresh)
    stored = {name: tensor.to(STORED_DTYPE).contiguous() for name, tensor in tensors.items()}
    save_file(stored, fresh / "adapter_model.safetensors", metadata={"format": "pt"})
    if folder.exists():
        os.replace(folder, stale)
    os.replace(fresh, folder)
    shutil.rmtree(stale, ignore_errors=True)
    num_bytes = (folder / "adapter_model.safetensors").stat().st_size
    print(f"   saved {folder} ({num_bytes / 1e6:.2f} MB)")
    return folder


def show_answers(
    base: PreTrainedModel, tokenizer: Tokenizer, folder: Path, questions_path: Path
) -> None:
    """Ask what the training set does not contain; show three pairs and every miss."""
    model = PeftModel.from_pretrained(base, folder).eval()
    rows = [json.loads(line) for line in questions_path.read_text(encoding="utf-8").splitlines()]
    num_right = 0
    for number, row in enumerate(rows):
        question = row["question"]
        answer = ask(model, tokenizer, question)
        is_right = all(re.search(pattern, answer, re.IGNORECASE) for pattern in row["expect"])
        num_right += is_right
        if number < 3:
            with model.disable_adapter():
                print(f"\n   Q        {question}\n   base     {ask(model, tokenizer, question)}")
            print(f"   adapter  {answer}")
        if not is_right:
            print(f"\n   missed   {question}\n            {answer}")
    print(f"\n   {num_right} of {len(rows)} held-out questions answered as expected")
    model.unload()


@torch.inference_mode()
def ask(model: PeftModel, tokenizer: Tokenizer, question: str) -> str:
    """One greedy answer, through the chat template and without a system prompt of ours."""
    prompt_ids = encode_prompt(tokenizer, [{"role": "user", "content": question}])
    ids_BT = torch.tensor([prompt_ids])
    output_BT = model.generate(
        input_ids=ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        max_new_tokens=MAX_ANSWER_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    text = tokenizer.decode(output_BT[0, len(prompt_ids) :], skip_special_tokens=True)
    return " ".join(text.split())


def sparkline(values: Sequence[float], *, width: int = 40) -> str:
    """The curve in one line of text, highest bar for the highest mean of a slice."""
    width = min(width, len(values))
    edges = [len(values) * column // width for column in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = 7 / (high - low) if high > low else 0.0
    return "".join("▁▂▃▄▅▆▇█"[round((mean - low) * scale)] for mean in means)


if __name__ == "__main__":
    main()
