"""What PiSSA and OLoRA take from a weight is what PEFT takes, and is given back to the update."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lorry_server.lora.initial_weights import initial_part, without_initial_part
from lorry_server.lora.peft_tensors import LoraWeights

SHAPES = [(24, 40), (40, 24), (16, 16)]


class OneLinear(nn.Module):
    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False)
        self.linear.weight.data.copy_(weight_OI)

    def forward(self, x_TI: Tensor) -> Tensor:
        y_TO: Tensor = self.linear(x_TI)
        return y_TO


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("initialization", ["pissa", "olora"])
def test_the_initial_part_is_what_peft_subtracts(
    shape: tuple[int, int], initialization: str
) -> None:
    weight_OI = random(*shape)
    config = LoraConfig(
        r=5, lora_alpha=15, target_modules=["linear"], init_lora_weights=initialization
    )

    model = get_peft_model(OneLinear(weight_OI), config)  # type: ignore[arg-type]  # any module will do
    theirs = weight_OI - model.base_model.model.linear.base_layer.weight.detach()
    first, second = initial_part(weight_OI.double(), 5, initialization=initialization, scaling=3.0)

    torch.testing.assert_close((first @ second).float(), theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("initialization", ["pissa", "olora"])
@pytest.mark.parametrize("shape", [*SHAPES, (6, 40)])
def test_the_update_relative_to_the_whole_base_is_the_same_product(
    shape: tuple[int, int], initialization: str
) -> None:
    weight_OI, rank = random(*shape), 5
    a_RI, b_OR = random(rank, shape[1], seed=1), random(shape[0], rank, seed=2)
    weights = LoraWeights(a_RI, b_OR, scaling=2.0)

    relative = without_initial_part(weights, weight_OI, initialization=initialization)

    first, second = initial_part(
        weight_OI.double(), rank, initialization=initialization, scaling=2.0
    )
    expected = (b_OR @ a_RI).double() - first @ second
    torch.testing.assert_close(
        (relative.b_OR @ relative.a_RI).double(), expected, atol=1e-4, rtol=0
    )
    assert relative.rank <= 2 * rank


def test_an_update_that_did_not_move_is_nothing() -> None:
    weight_OI = random(24, 40)
    first, second = initial_part(weight_OI.double(), 5, initialization="pissa", scaling=1.0)
    weights = LoraWeights(second.float(), first.float())

    relative = without_initial_part(weights, weight_OI, initialization="pissa")

    assert (relative.b_OR @ relative.a_RI).abs().max() < 1e-5
