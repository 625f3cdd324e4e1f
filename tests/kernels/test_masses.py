"""The specified logarithm and integer masses, beside float64 of the library."""

from __future__ import annotations

import pytest
import torch

from lorry_server.kernels.log import log
from lorry_server.kernels.masses import log_of_mass, log_softmax, masses


def test_log_is_within_two_units_in_the_last_place() -> None:
    exponents = torch.linspace(-300, 300, 20_001, dtype=torch.float64)
    near_one = 1.0 + torch.linspace(-1e-3, 1e-3, 2000, dtype=torch.float64)
    x = torch.cat((10.0**exponents, near_one, torch.rand(2000, dtype=torch.float64) + 0.5))

    relative = ((log(x) - x.log()) / x.log()).abs()

    assert relative.nan_to_num(0.0).max() <= 2 * torch.finfo(torch.float64).eps
    assert log(torch.ones(1, dtype=torch.float64)).item() == 0.0


def test_masses_do_not_depend_on_the_order_of_their_sum() -> None:
    weights = masses(torch.randn(1, 5000).mul_(8).sub_(40))

    assert weights.flip(-1).sum() == weights.sum()
    assert weights[0, torch.randperm(5000)].cumsum(-1)[-1] == weights.sum()


def test_the_best_token_weighs_one_and_the_unlikeliest_nothing() -> None:
    assert masses(torch.tensor([0.0, -40.0, -torch.inf])).tolist() == [2**42, 0, 0]


def test_the_log_of_a_mass_is_in_units_of_the_best_token() -> None:
    assert log_of_mass(torch.tensor([2**42])).item() == 0.0
    assert log_of_mass(torch.tensor([3 << 42])).item() == pytest.approx(1.0986122886681098)


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_log_softmax_is_the_librarys_but_for_rounding(spread: float) -> None:
    logits = torch.randn(20, 3000, generator=torch.Generator().manual_seed(1)) * spread

    exact = logits.double().log_softmax(-1)

    assert (log_softmax(logits) - exact).abs().max() < 1e-5 * max(1.0, spread)
