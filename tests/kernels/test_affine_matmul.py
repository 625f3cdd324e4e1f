from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lorry_server.kernels import affine_matmul as module
from lorry_server.kernels.affine_matmul import (
    affine_group_matmul,
    affine_matmul,
    integer_product_is_exact,
    quantize_groups,
)

SHAPES = [(1, 96, 64), (17, 33, 576), (3, 5, 7), (2, 4, 33), (0, 8, 8), (5, 1, 1)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_bytes(*shape: int, high: int = 256, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)


def tokens(num: int, size: int, *, seed: int = 1) -> Tensor:
    """With the outliers of a trained model."""
    x_MK = random(num, size, seed=seed)
    x_MK[:, ::29] *= 300
    return x_MK


def operands(m: int, n: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, and a weight of bytes with a zero point of its own in each row."""
    return tokens(m, k), random_bytes(n, k), random(n, seed=2).abs() / 100, random(n, seed=3) * 200


def group_operands(m: int, n: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_groups = -(-k // 32)
    return (
        tokens(m, k),
        random_bytes(n, k, high=16),
        random(n, num_groups, seed=2).abs() / 100,
        random_bytes(n, num_groups, high=16, seed=3).float(),
    )


def quantized_by_hand(x_K: Tensor) -> tuple[list[list[int]], list[np.float32]]:
    """One token's groups, number by number."""
    integers, scales = [], []
    for group in np.split(x_K.numpy(), range(32, len(x_K), 32)):
        m = np.maximum(np.abs(group).max(), np.float32(1e-30))
        factor = np.float32(127) / m
        integers.append([int(np.rint(x * factor)) for x in group])
        scales.append(m / np.float32(127))
    return integers, scales


def rows_by_hand(x_MK: Tensor, q_NK: Tensor, scale_N: Tensor, zero_N: Tensor) -> Tensor:
    """`affine_matmul` with Python's integers and numpy's float32 scalars."""
    f = np.float32
    y_MN = torch.empty(len(x_MK), len(q_NK))
    for m, x_K in enumerate(x_MK):
        integers, scales = quantized_by_hand(x_K)
        total = f(0)
        for group, scale in zip(integers, scales, strict=True):
            total = total + f(sum(group)) * scale
        for n, q_K in enumerate(q_NK.tolist()):
            acc = f(0)
            for g, (group, scale) in enumerate(zip(integers, scales, strict=True)):
                row = q_K[32 * g : 32 * g + 32]
                acc = acc + f(sum((q - 128) * x for q, x in zip(row, group, strict=True))) * scale
            acc = acc - (f(zero_N[n].item()) - f(128)) * total
            y_MN[m, n] = float(acc * f(scale_N[n].item()))
    return y_MN


def groups_by_hand(x_MK: Tensor, q_NK: Tensor, scale_NG: Tensor, zero_NG: Tensor) -> Tensor:
    f = np.float32
    y_MN = torch.empty(len(x_MK), len(q_NK))
    for m, x_K in enumerate(x_MK):
        integers, scales = quantized_by_hand(x_K)
        for n, q_K in enumerate(q_NK.tolist()):
            acc = f(0)
            for g, (group, scale) in enumerate(zip(integers, scales, strict=True)):
                row = q_K[32 * g : 32 * g + 32]
                exact = sum(q * x for q, x in zip(row, group, strict=True))
                exact -= int(zero_NG[n, g]) * sum(group)
                acc = acc + (f(exact) * scale) * f(scale_NG[n, g].item())
            y_MN[m, n] = float(acc)
    return y_MN


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_rows_have_the_bits_of_the_formula_by_hand(m: int, n: int, k: int) -> None:
    given = operands(m, n, min(k, 100))

    assert torch.equal(affine_matmul(*given), rows_by_hand(*given))


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_groups_have_the_bits_of_the_formula_by_hand(m: int, n: int, k: int) -> None:
    given = group_operands(m, n, min(k, 100))

    assert torch.equal(affine_group_matmul(*given), groups_by_hand(*given))


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("has_integer_product", [True, False])
def test_the_bits_do_not_depend_on_how_integers_are_multiplied(
    m: int, n: int, k: int, has_integer_product: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = operands(m, n, k)
    expected_MN = affine_matmul(*given)
    available = has_integer_product and integer_product_is_exact()
    monkeypatch.setattr(module, "integer_product_is_exact", lambda: available)

    assert torch.equal(affine_matmul(*given), expected_MN)


def test_rows_are_near_their_product_in_float64() -> None:
    x_MK, q_NK, scale_N, zero_N = operands(9, 40, 576)
    w_NK = scale_N[:, None].double() * (q_NK.double() - zero_N[:, None].double())
    exact_MN = x_MK.double() @ w_NK.t()

    error_MN = affine_matmul(x_MK, q_NK, scale_N, zero_N) - exact_MN

    assert error_MN.norm() / exact_MN.norm() < 0.01


def test_groups_are_near_their_product_in_float64() -> None:
    x_MK, q_NK, scale_NG, zero_NG = group_operands(9, 40, 576)
    spread = (t.double().repeat_interleave(32, dim=1) for t in (scale_NG, zero_NG))
    scale_NK, zero_NK = spread
    exact_MN = x_MK.double() @ (scale_NK * (q_NK.double() - zero_NK)).t()

    error_MN = affine_group_matmul(x_MK, q_NK, scale_NG, zero_NG) - exact_MN

    assert error_MN.norm() / exact_MN.norm() < 0.02


def test_zero_points_of_128_cost_no_term() -> None:
    x_MK, q_NK, scale_N, _ = operands(4, 8, 64)
    symmetric_N = torch.full((8,), 128.0)

    y_MN = affine_matmul(x_MK, q_NK, scale_N, symmetric_N)

    assert torch.equal(y_MN, rows_by_hand(x_MK, q_NK, scale_N, symmetric_N))


def test_sums_of_the_most_extreme_integers_are_exact() -> None:
    signs_K = torch.tensor([-127.0, 127.0]).repeat(32)
    q_NK = torch.tensor([0, 255], dtype=torch.uint8)[:, None].expand(2, 64).contiguous()

    y_MN = affine_matmul(
        torch.stack((signs_K, signs_K.abs())), q_NK, torch.ones(2), torch.full((2,), 128.0)
    )

    assert y_MN.tolist() == [[0, 0], [-128 * 127 * 64, 127 * 127 * 64]]


def test_activations_are_quantized_symmetrically_with_ties_to_even() -> None:
    x_MK = torch.zeros(2, 40)
    x_MK[0, :4] = torch.tensor([-254.0, 3.0, 5.0, 254.0])
    x_MK[0, 32:35] = torch.tensor([127.0, 1.5, -2.5])

    xq_MGJ, scale_MG = quantize_groups(x_MK)

    assert xq_MGJ.shape == (2, 2, 32)
    assert xq_MGJ[0, 0, :4].tolist() == [-127, 2, 2, 127]
    assert xq_MGJ[0, 1, :3].tolist() == [127, 2, -2]
    assert scale_MG[0].tolist() == [2, 1]
    assert not xq_MGJ[1].any()


def test_a_large_value_costs_only_its_own_group() -> None:
    x_MK = random(1, 256)
    x_MK[0, 7] = 500.0

    xq_MGJ, scale_MG = quantize_groups(x_MK)

    error_GJ = (scale_MG[..., None] * xq_MGJ - x_MK.view(1, 8, 32))[0].abs()
    assert error_GJ[1:].max() < 4 / 127
    assert error_GJ[0].max() < 500 / 127 * 0.51


@pytest.mark.parametrize("multiply", [affine_matmul, affine_group_matmul])
def test_a_row_does_not_depend_on_its_neighbours(multiply) -> None:  # type: ignore[no-untyped-def]  # one of two functions
    make = operands if multiply is affine_matmul else group_operands
    x_MK, *weight = make(37, 24, 96)
    x_MK[5] *= 1000

    alone_MN = torch.cat([multiply(x_K[None], *weight) for x_K in x_MK])

    assert torch.equal(multiply(x_MK, *weight), alone_MN)


@pytest.mark.parametrize("multiply", [affine_matmul, affine_group_matmul])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_spoils_its_own_row_only(multiply, value: float) -> None:  # type: ignore[no-untyped-def]  # one of two functions
    make = operands if multiply is affine_matmul else group_operands
    x_MK, *weight = make(3, 8, 70)
    expected_MN = multiply(x_MK, *weight)
    x_MK[1, 40] = value

    y_MN = multiply(x_MK, *weight)

    assert torch.equal(y_MN[::2], expected_MN[::2])
    assert not bool(y_MN[1].isfinite().any())


def test_the_result_has_the_dtype_of_the_activations() -> None:
    x_MK, *weight = operands(3, 8, 64)

    y_MN = affine_matmul(x_MK.bfloat16(), *weight)

    assert y_MN.dtype == torch.bfloat16
    assert torch.equal(y_MN, affine_matmul(x_MK.bfloat16().float(), *weight).bfloat16())
