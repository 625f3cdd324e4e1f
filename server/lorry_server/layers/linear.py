"""`Linear`: one matmul over the rows of one or more of the checkpoint's linear modules.

Shape legend: T tokens, I input features, O output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lorry_server.quantization.scheme import Scheme, Weight


@dataclass(frozen=True, slots=True)
class LinearSlice:
    """Rows `start : stop` of a fused linear: one linear module of the checkpoint.

    `name` is that module's path in Hugging Face's model, "model.layers.0.self_attn.q_proj".
    """

    name: str
    start: int
    stop: int


class LinearAdapters(Protocol):
    """What adds the step's adapters to a linear's output; attached from outside."""

    def add_(self, y_TO: Tensor, x_TI: Tensor) -> None:
        """Bring each token's adapter into `y_TO`, in place; `x_TI` is the linear's input.

        Mostly that is a product to add; `lora.matched` has the other forms.
        """
        ...


class Linear(nn.Module):
    """`y_TO = x_TI W^T (+ b)`, and then the adapters, if any are attached.

    The rows of the checkpoint's modules lie one after the other, in the order given.
    """

    bias_O: Tensor | None

    def __init__(
        self,
        name: str,
        *,
        in_features: int,
        parts: Sequence[tuple[str, int]],
        bias: bool,
        is_head: bool = False,
        scheme: Scheme,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`parts` are the names and numbers of rows of the modules that are fused.

        `is_head` says that the product is the logits.
        """
        super().__init__()
        slices: list[LinearSlice] = []
        for part, num_rows in parts:
            start = slices[-1].stop if slices else 0
            slices.append(LinearSlice(part, start=start, stop=start + num_rows))
        self.name = name
        self.slices = tuple(slices)
        self.in_features = in_features
        self.out_features = slices[-1].stop
        self.adapters: LinearAdapters | None = None
        self.weight: Weight = scheme.create(
            self.out_features,
            in_features=in_features,
            is_head=is_head,
            dtype=dtype,
            device=device,
        )
        self.register_buffer(
            "bias_O", torch.empty(self.out_features, dtype=dtype, device=device) if bias else None
        )

    def forward(self, x_TI: Tensor) -> Tensor:
        y_TO = self.weight.matmul(x_TI)
        if self.bias_O is not None:
            y_TO = y_TO + self.bias_O
        if self.adapters is not None:
            self.adapters.add_(y_TO, x_TI)
        return y_TO
