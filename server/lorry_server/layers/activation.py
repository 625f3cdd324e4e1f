"""The gated activations of the feed-forward layers.

Shape legend: T tokens, F size of the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from lorry_server.kernels import exp


def silu(x: Tensor) -> Tensor:
    return exp.silu(x) if _is_specified(x) else F.silu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    return exp.gelu_tanh(x) if _is_specified(x) else F.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"silu": silu, "gelu": F.gelu, "gelu_pytorch_tanh": gelu_tanh}
)


def gate(gate_up_TF: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """`activation(gate) * up`, of a fused product `gate_up_TF` of twice the size `F`."""
    gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
    return activation(gate_TF) * up_TF


def _is_specified(x: Tensor) -> bool:
    """Whether compiled code may compute the same: float32 on a CPU."""
    return x.dtype == torch.float32 and x.device.type == "cpu"
