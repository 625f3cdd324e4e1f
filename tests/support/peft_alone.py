"""What PEFT itself says with one adapter: the oracle of everything that serves several."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from tests.support.tiny_adapters import TOKENS, load_base


@dataclass(frozen=True)
class Continuation:
    """The greedy tokens after a prompt, and the logits that chose each."""

    prompt: list[int]
    tokens: list[int]
    logits: Tensor


def prompt_of(name: str | None) -> list[int]:
    """The same beginning for all, so that a prefix shared by mistake would show."""
    rng = random.Random(str(name))
    return (
        list(range(20, 60)) + [rng.randrange(10, 250) for _ in range(rng.randint(3, 20))] + TOKENS
    )


@torch.inference_mode()
def continue_alone(
    base: Path, adapter: Path | None, name: str | None, *, count: int
) -> Continuation:
    """`count` greedy tokens of the base with one adapter, as PEFT loads it, without a cache."""
    model = load_base(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    prompt = prompt_of(name)
    tokens, logits = list(prompt), []
    for _ in range(count):
        logits.append(model(torch.tensor([tokens])).logits[0, -1])
        tokens.append(int(logits[-1].argmax()))
    return Continuation(prompt, tokens[len(prompt) :], torch.stack(logits))
