from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lorry_server.kernels.exp import exp, gelu_tanh, silu, tanh
from lorry_server.layers.activation import ACTIVATIONS


def spread(low: float, high: float, count: int = 40_001) -> Tensor:
    return torch.linspace(low, high, count)


def ulps(got: Tensor, exact: Tensor) -> float:
    """Largest distance in units in the last place of the exact value."""
    unit = torch.from_numpy(np.spacing(exact.abs().float().numpy())).double()
    return float(((got.double() - exact) / unit).abs().max())


def test_exp_is_within_two_units_of_the_exact_value() -> None:
    x = spread(-87, 88)

    assert ulps(exp(x), x.double().exp()) < 2


def test_exp_is_exact_at_zero_and_clamped_far_from_it() -> None:
    y = exp(torch.tensor([0.0, -0.0, -1e30, -torch.inf, 1e30, torch.inf]))

    assert y[:2].tolist() == [1, 1]
    assert torch.equal(y[2:], exp(torch.tensor([-87.0, -87.0, 88.0, 88.0])))


def test_exp_of_nan_is_nan_and_leaves_its_neighbours_alone() -> None:
    y = exp(torch.tensor([1.0, torch.nan, 2.0]))

    assert y.isnan().tolist() == [False, True, False]


def test_exp_leaves_its_argument_alone() -> None:
    x = spread(-90, 90)
    before = x.clone()

    exp(x), tanh(x), silu(x), gelu_tanh(x)

    assert torch.equal(x, before)


def test_exp_has_the_bits_of_its_operations_written_with_numpy() -> None:
    x = spread(-88, 89).numpy()
    f = np.float32

    c = np.clip(x, f(-87), f(88))
    n = np.rint(c * f(1.44269504088896341))
    r = (c - n * f(0.693359375)) - n * f(-2.12194440e-4)
    p = r * f(1.9875691500e-4) + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    y = (p * (r * r) + r) + f(1)
    y = y * ((n.astype(np.int32) + 127) << 23).view(np.float32)

    assert np.array_equal(exp(torch.from_numpy(x)).numpy(), y)


@pytest.mark.parametrize("start", [0, 1, 3, 7])
@pytest.mark.parametrize("length", [1, 5, 16, 33])
@pytest.mark.parametrize("function", [exp, tanh, silu, gelu_tanh])
def test_an_element_does_not_depend_on_its_place(function, start: int, length: int) -> None:  # type: ignore[no-untyped-def]  # one of four functions
    x = spread(-20, 20, 97)

    assert torch.equal(function(x[start : start + length]), function(x)[start : start + length])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tanh, torch.tanh),
        (silu, F.silu),
        (gelu_tanh, lambda x: F.gelu(x, approximate="tanh")),
    ],
)
def test_activations_are_near_those_of_torch(ours, theirs) -> None:  # type: ignore[no-untyped-def]  # pairs of functions
    x = spread(-30, 30)

    torch.testing.assert_close(ours(x), theirs(x), atol=5e-7, rtol=2e-6)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_keep_the_dtype(name: str) -> None:
    x = spread(-3, 3, 50)

    for dtype in (torch.float32, torch.bfloat16):
        assert ACTIVATIONS[name](x.to(dtype)).dtype == dtype
