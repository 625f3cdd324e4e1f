"""Rotary position embedding (RoFormer, Su et al. 2021) and the ways to stretch it.

Frequencies are computed in float32 in the order in which the models were trained, because at
position p an error in a frequency is multiplied by p.

Shape legend: T tokens, N heads, H head size, R rotated features (the first R of H).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Position interpolation (Chen et al. 2023): all frequencies divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): a ramp over dimensions, and a factor on cosine and sine."""

    factor: float
    attention_factor: float
    beta_fast: float
    beta_slow: float
    original_max_position: int
    truncate: bool


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """LongRoPE (Ding et al. 2024): one divisor for each frequency, and a factor as in YaRN."""

    factors: tuple[float, ...]
    attention_factor: float


Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


@dataclass(frozen=True, slots=True)
class Rope:
    """The rotation of one or more layers: base `theta`, `size` rotated features of each head."""

    theta: float
    size: int
    scaling: Scaling | None = None


def frequencies(rope: Rope) -> tuple[Tensor, float]:
    """Radians per position of each pair of features (float32), and the factor on cosine and sine."""
    exponents = torch.arange(0, rope.size, 2, dtype=torch.int64).float() / rope.size
    periods = rope.theta**exponents
    match rope.scaling:
        case None:
            return 1.0 / periods, 1.0
        case LinearScaling(factor=factor):
            return 1.0 / periods / factor, 1.0
        case Llama3Scaling() as scaling:
            return _llama3(1.0 / periods, scaling), 1.0
        case YarnScaling() as scaling:
            return _yarn(periods, rope, scaling), scaling.attention_factor
        case LongRopeScaling(factors=factors, attention_factor=attention_factor):
            return 1.0 / (torch.tensor(factors, dtype=torch.float32) * periods), attention_factor


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    wavelengths = 2 * math.pi / plain
    longest_kept = scaling.original_max_position / scaling.high_freq_factor
    shortest_stretched = scaling.original_max_position / scaling.low_freq_factor
    smooth = (scaling.original_max_position / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    stretched = plain / scaling.factor
    between = (1 - smooth) * stretched + smooth * plain
    return torch.where(
        wavelengths < longest_kept,
        plain,
        torch.where(wavelengths > shortest_stretched, stretched, between),
    )


def _yarn(periods: Tensor, rope: Rope, scaling: YarnScaling) -> Tensor:
    def dimension_with(num_rotations: float) -> float:
        """The dimension that turns `num_rotations` times over the original context."""
        ratio = scaling.original_max_position / (num_rotations * 2 * math.pi)
        return rope.size * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = dimension_with(scaling.beta_fast), dimension_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.size - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = ((torch.arange(rope.size // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    kept = 1 - ramp
    return 1.0 / (scaling.factor * periods) * (1 - kept) + 1.0 / periods * kept


class RotaryEmbedding(nn.Module):
    """Cosines and sines of a step's positions for one `Rope`."""

    frequencies_F: Tensor

    def __init__(self, rope: Rope, *, device: torch.device) -> None:
        super().__init__()
        frequencies_F, self._factor = frequencies(rope)
        self.register_buffer("frequencies_F", frequencies_F.to(device))

    def forward(self, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`(cos, sin)`, each `T, 1, R` so that it spreads over heads, in `dtype`."""
        angles_TF = positions_T[:, None].float() * self.frequencies_F
        angles_T1R = torch.cat((angles_TF, angles_TF), dim=-1)[:, None]
        # In float64 and rounded once, so that it does not show whose cosine it was.
        angles_T1R = angles_T1R.double()
        cos = angles_T1R.cos().float() * self._factor
        sin = angles_T1R.sin().float() * self._factor
        return cos.to(dtype), sin.to(dtype)


def rotate(x_TNH: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    """Rotate the first R features of every head, pairing feature i with i + R / 2."""
    size = cos_T1R.shape[-1]
    turned, kept = x_TNH[..., :size], x_TNH[..., size:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos_T1R + torch.cat((-second, first), dim=-1) * sin_T1R
    return turned if size == x_TNH.shape[-1] else torch.cat((turned, kept), dim=-1)
