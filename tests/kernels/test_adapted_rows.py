"""The reference of factors, shifts and embeddings: rows do not depend on each other."""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.kernels.adapted_rows import embedding_update, scale_and_shift


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_results_are_rounded_after_the_factor_and_after_the_shift() -> None:
    y_TO, scale_O, shift_O = random(5, 40, seed=0), random(40, seed=1), random(40, seed=2)

    result = scale_and_shift(y_TO, scale_O, shift_O)

    for row in range(5):
        for column in range(40):
            product = torch.tensor(float(y_TO[row, column]) * float(scale_O[column]))
            expected = torch.tensor(float(product) + float(shift_O[column]))
            assert result[row, column] == expected


def test_bfloat16_is_rounded_once() -> None:
    y_TO = random(5, 40, seed=0).bfloat16()
    scale_O, shift_O = random(40, seed=1), random(40, seed=2)

    result = scale_and_shift(y_TO, scale_O, shift_O)

    assert result.dtype == torch.bfloat16
    assert torch.equal(result, (y_TO.float() * scale_O + shift_O).bfloat16())


def test_an_embedding_update_is_the_product_of_its_two_halves() -> None:
    a_TR, b_RD = random(7, 5, seed=3), random(5, 48, seed=4)

    torch.testing.assert_close(embedding_update(a_TR, b_RD), a_TR @ b_RD)


def test_a_tokens_update_has_the_same_bits_in_any_step() -> None:
    a_TR, b_RD = random(9, 5, seed=3), random(5, 48, seed=4)
    together = embedding_update(a_TR, b_RD)

    for token in range(9):
        assert torch.equal(embedding_update(a_TR[token : token + 1], b_RD)[0], together[token])
