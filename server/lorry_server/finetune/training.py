"""`Training`: the loop's state. One `advance` learns one batch; nothing here writes or prints.

Shape legend: B sequences, T tokens, N learned tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorry_server.finetune.adapted_model import trained_parameters
from lorry_server.finetune.batches import Batch, BatchOrder, make_batch
from lorry_server.finetune.encoding import Example
from lorry_server.finetune.options import LearningOptions

MAX_GRAD_NORM = 1.0
WARMUP_SHARE = 0.05
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter


@dataclass(frozen=True, slots=True)
class TrainingState:
    """All that a resumed run needs beside its options, model, data and the adapter's weights.

    `tensors` are the optimizer's moments by parameter and the states of the random generators.
    """

    step: int
    losses: tuple[float, ...]
    held_out_losses: tuple[tuple[int, float], ...]
    tensors: dict[str, Tensor]


class Training:
    """AdamW over the adapter's parameters, with warm-up and a cosine decay to zero."""

    def __init__(
        self,
        model: Any,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        options: LearningOptions,
        *,
        device: torch.device,
    ) -> None:
        self.model = model
        self.step = 0  # steps done
        self.losses: list[float] = []  # one for each step
        self.held_out_losses: list[tuple[int, float]] = []  # after so many steps
        self._examples = examples
        self._held_out = held_out
        self._options = options
        self._device = device
        self._order = BatchOrder(len(examples), batch_size=options.batch_size, seed=options.seed)
        self._parameters = trained_parameters(model)
        self._optimizer = torch.optim.AdamW(
            list(self._parameters.values()), lr=options.learning_rate, weight_decay=0.0
        )
        self._takes_positions = (
            "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters
        )
        self.num_steps = options.num_steps or max(
            1, round((options.num_epochs or 0) * self._order.steps_per_epoch)
        )

    @property
    def is_done(self) -> bool:
        return self.step >= self.num_steps

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Of step `step`, counted from 0: a line up, then half a cosine down to zero."""
        num_warmup = max(1, round(WARMUP_SHARE * self.num_steps))
        if step < num_warmup:
            share = (step + 1) / num_warmup
        else:
            share = 0.5 + 0.5 * math.cos(
                math.pi * (step - num_warmup + 1) / (self.num_steps - num_warmup + 1)
            )
        return self._options.learning_rate * share

    def advance(self) -> float:
        """Learn the next batch; return its loss before that."""
        self.model.train()
        chosen = [self._examples[index] for index in self._order.at(self.step)]
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        loss = self._loss(make_batch(chosen, device=self._device))
        loss.backward()  # type: ignore[no-untyped-call]  # theirs
        torch.nn.utils.clip_grad_norm_(list(self._parameters.values()), MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self.losses.append(loss.item())
        return self.losses[-1]

    @torch.inference_mode()
    def evaluate(self) -> float | None:
        """The mean loss of the held-out tokens now, noted; None where nothing is held out."""
        if not self._held_out:
            return None
        self.model.eval()
        total, num_tokens = 0.0, 0
        for start in range(0, len(self._held_out), self._options.batch_size):
            chosen = self._held_out[start : start + self._options.batch_size]
            batch = make_batch(chosen, device=self._device)
            num_learned = int(batch.learned_BT.sum())
            total += self._loss(batch).item() * num_learned
            num_tokens += num_learned
        self.held_out_losses.append((self.step, total / num_tokens))
        return self.held_out_losses[-1][1]

    def state(self) -> TrainingState:
        """A copy that later steps do not change."""
        tensors = {"generator.cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self._device)
        for name, parameter in self._parameters.items():
            for moment, value in self._optimizer.state[parameter].items():
                tensors[f"{moment}.{name}"] = value.detach().to("cpu", copy=True)
        return TrainingState(self.step, tuple(self.losses), tuple(self.held_out_losses), tensors)

    def restore(self, state: TrainingState) -> None:
        """Go on as if `state` had been reached here. The adapter's weights are set by the caller."""
        self.step = state.step
        self.losses = list(state.losses)
        self.held_out_losses = list(state.held_out_losses)
        empty = self._optimizer.state_dict()
        moments = {
            index: {moment: state.tensors[f"{moment}.{name}"] for moment in MOMENTS}
            for index, name in enumerate(self._parameters)
        }
        self._optimizer.load_state_dict({**empty, "state": moments})
        torch.set_rng_state(state.tensors["generator.cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state.tensors["generator.cuda"], self._device)

    def _loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of the learned tokens, each foretold from those before it."""
        foretelling_BT = batch.learned_BT[:, 1:]
        # The vocabulary is the dearest matrix, so it meets only positions that somebody learns.
        if self._takes_positions:
            kept_T = foretelling_BT.any(dim=0).nonzero().squeeze(1)
            keep = {"logits_to_keep": kept_T}
        else:
            kept_T = torch.arange(foretelling_BT.shape[1], device=self._device)
            keep = {}
        logits_BTV = self.model(
            input_ids=batch.ids_BT,
            attention_mask=batch.attended_BT.long(),
            use_cache=False,
            **keep,
        ).logits
        if not keep:
            logits_BTV = logits_BTV[:, :-1]
        is_learned_BT = foretelling_BT[:, kept_T]
        return torch.nn.functional.cross_entropy(
            logits_BTV[is_learned_BT].float(), batch.ids_BT[:, 1:][:, kept_T][is_learned_BT]
        )
