"""Merging matrices gives what `peft.utils.merge_utils` gives."""

from __future__ import annotations

import pytest
import torch
from peft.utils import merge_utils
from torch import Tensor

from lorry_server.lora.merge_methods import drop_and_rescale, keep_largest, merge

WEIGHTS = [0.7, -0.4, 1.5]
SEED = 11


@pytest.fixture
def matrices() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(6, 40, generator=generator) * (1 + index) for index in range(3)]


def merged(matrices: list[Tensor], method: str, density: float, sign: str | None = None) -> Tensor:
    return merge(
        matrices,
        WEIGHTS,
        method=method,
        density=density,
        majority_sign_method=sign,
        generator=torch.Generator().manual_seed(SEED),
    )


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("sign", ["total", "frequency"])
@pytest.mark.parametrize("method", ["ties", "dare_ties"])
@pytest.mark.filterwarnings("ignore:The density 1.0")
def test_merging_by_sign_equals_peft(
    matrices: list[Tensor], method: str, sign: str, density: float
) -> None:
    torch.manual_seed(SEED)
    wanted = getattr(merge_utils, method)(matrices, torch.tensor(WEIGHTS), density, sign)

    assert torch.equal(merged(matrices, method, density, sign), wanted)


@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("method", ["dare_linear", "magnitude_prune"])
@pytest.mark.filterwarnings("ignore:The density 1.0")
def test_adding_what_is_left_equals_peft(
    matrices: list[Tensor], method: str, density: float
) -> None:
    torch.manual_seed(SEED)
    wanted = getattr(merge_utils, method)(matrices, torch.tensor(WEIGHTS), density)

    assert torch.equal(merged(matrices, method, density), wanted)


def test_zeros_have_no_say_in_the_sign() -> None:
    matrices = [torch.tensor([0.0, 0.0, -1.0]), torch.tensor([-2.0, 0.0, 3.0]), torch.zeros(3)]

    result = merged(matrices, "ties", 1.0, "frequency")

    assert result.tolist() == pytest.approx([0.8, 0.0, -1.2])


def test_the_largest_are_kept_as_they_are() -> None:
    matrix = torch.tensor([[1.0, -5.0, 2.0], [0.5, -3.0, 4.0]])

    assert keep_largest(matrix, 0.5).tolist() == [[0.0, -5.0, 0.0], [0.0, -3.0, 4.0]]


def test_dropping_keeps_the_mean() -> None:
    matrix = torch.ones(400, 400)

    dropped = drop_and_rescale(matrix, 0.25, torch.Generator().manual_seed(SEED))

    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert set(dropped.unique().tolist()) == {0.0, 4.0}
