"""The gated activations of the feed-forward layers.

Shape legend: T tokens, F size of the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    }
)


def gate(gate_up_TF: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """`activation(gate) * up`, of a fused product `gate_up_TF` of twice the size `F`."""
    gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
    return activation(gate_TF) * up_TF
