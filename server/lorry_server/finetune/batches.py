"""Which examples each step learns, and their tensors.

The order is a function of seed and step alone, so a resumed run needs only to know its step.
Shape legend: B sequences, T tokens of the longest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lorry_server.finetune.encoding import Example


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded on the right. `ids_BT` int64, the others bool; every row learns at least one token."""

    ids_BT: Tensor
    attended_BT: Tensor
    learned_BT: Tensor


class BatchOrder:
    """An order of its own for each pass over the examples; the last batch of a pass may be small."""

    def __init__(self, num_examples: int, *, batch_size: int, seed: int) -> None:
        self._num_examples = num_examples
        self._batch_size = batch_size
        self._seed = seed
        self.steps_per_epoch = -(-num_examples // batch_size)
        self._epoch_order = lru_cache(maxsize=1)(self._shuffled)

    def at(self, step: int) -> list[int]:
        """The examples that step `step` learns, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        start = index * self._batch_size
        return self._epoch_order(epoch)[start : start + self._batch_size]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(self._num_examples))
        random.Random(f"{self._seed}:{epoch}").shuffle(order)
        return order


def make_batch(examples: Sequence[Example], *, device: torch.device) -> Batch:
    num_tokens = max(len(example.token_ids) for example in examples)
    ids_BT = torch.zeros(len(examples), num_tokens, dtype=torch.long)
    attended_BT = torch.zeros(len(examples), num_tokens, dtype=torch.bool)
    learned_BT = torch.zeros(len(examples), num_tokens, dtype=torch.bool)
    for row, example in enumerate(examples):
        end = len(example.token_ids)
        ids_BT[row, :end] = torch.tensor(example.token_ids)
        attended_BT[row, :end] = True
        # Nothing foretells the first token.
        learned_BT[row, max(1, example.learn_from) : end] = True
    return Batch(ids_BT.to(device), attended_BT.to(device), learned_BT.to(device))


def split_lines(
    lines: Sequence[Sequence[Example]], *, eval_split: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """The examples to learn, and those held out: a share of the lines, at least one unless 0.

    Whole lines are held out, so that no part of a held-out conversation is learned.
    """
    num_held_out = min(max(1, round(eval_split * len(lines))), len(lines) - 1)
    chosen: set[int] = set()
    if eval_split > 0:
        drawing = random.Random(f"{seed}:held-out")
        chosen = set(drawing.sample(range(len(lines)), num_held_out))
    learned: list[Example] = []
    held_out: list[Example] = []
    for index, examples in enumerate(lines):
        (held_out if index in chosen else learned).extend(examples)
    return learned, held_out
