from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorry_server.errors import ModelError
from lorry_server.kernels.int8_matmul import (
    affine_int8_matmul,
    quantize_tokens,
    symmetric_int8_matmul,
)
from lorry_server.quantization.int8 import CHUNK_ELEMENTS, Int8, Int8Weight
from lorry_server.quantization.registry import scheme_named

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weight_of(w_OI: Tensor, *, dtype: torch.dtype = torch.float32) -> Int8Weight:
    weight = Int8().create(w_OI.shape[0], in_features=w_OI.shape[1], dtype=dtype, device=CPU)
    weight.load_rows_(0, w_OI)
    return weight


@pytest.mark.parametrize(("m", "n", "k"), [(1, 96, 64), (17, 33, 576), (3, 5, 7), (0, 8, 8)])
def test_product_has_the_bits_of_the_affine_specification(m: int, n: int, k: int) -> None:
    weight = weight_of(random(n, k))
    x_MK = random(m, k, seed=1) * 10

    y_MN = weight.matmul(x_MK)

    expected_MN = affine_int8_matmul(x_MK, weight.q_OI, weight.scale_O, weight.zero_O)
    assert torch.equal(y_MN, expected_MN)


def test_product_of_extreme_integers_is_exact() -> None:
    w_NK = torch.full((16, 1536), 127, dtype=torch.int8)
    scale_N = torch.ones(16)
    offset_N = 128 * w_NK.sum(dim=1, dtype=torch.int32)

    y_MN = symmetric_int8_matmul(torch.full((4, 1536), -32639.0), w_NK, scale_N, offset_N)

    low, high = -32639 & 255, -32639 >> 8
    exact = torch.tensor(float(high * 127 * 1536)) * 256 + float(low * 127 * 1536)
    assert torch.equal(y_MN, exact.expand(4, 16))


def test_specification_is_the_formula_in_integers() -> None:
    q_NK = torch.tensor([[0, 255, 130], [128, 1, 200]], dtype=torch.uint8)
    zero_N = torch.tensor([3, 128], dtype=torch.int32)
    x_MK = torch.tensor([[32639.0, -64.0, 1.0]])  # quantizes to itself

    y_MN = affine_int8_matmul(x_MK, q_NK, torch.tensor([0.5, 2.0]), zero_N)

    first = 0.5 * (32639 * (0 - 3) - 64 * (255 - 3) + (130 - 3))
    second = 2.0 * (32639 * (128 - 128) - 64 * (1 - 128) + (200 - 128))
    assert torch.equal(y_MN, torch.tensor([[first, second]]))


def test_product_is_near_that_of_the_dequantized_weight() -> None:
    weight = weight_of(random(64, 256))
    x_TI = random(9, 256, seed=1)

    error_TO = weight.matmul(x_TI) - x_TI @ weight.dequantize().t()

    assert error_TO.norm() / (x_TI @ weight.dequantize().t()).norm() < 1e-4


def test_dequantized_weight_is_within_half_a_step_of_the_weight() -> None:
    w_OI = random(40, 64)
    weight = weight_of(w_OI)

    error_OI = (weight.dequantize() - w_OI).abs()

    assert bool((error_OI <= weight.scale_O[:, None] * 0.5001).all())


def test_affine_form_gives_the_dequantized_weight() -> None:
    weight = weight_of(random(40, 64))

    affine_OI = weight.scale_O[:, None] * (weight.q_OI.float() - weight.zero_O[:, None])

    assert torch.equal(affine_OI, weight.dequantize())


def test_row_result_does_not_depend_on_its_neighbours() -> None:
    weight = weight_of(random(64, 96))
    x_TI = random(12, 96, seed=1)
    x_TI[5] *= 1000

    alone_TO = torch.cat([weight.matmul(row_I[None]) for row_I in x_TI])

    assert torch.equal(weight.matmul(x_TI), alone_TO)


def test_rows_loaded_in_parts_are_those_loaded_at_once() -> None:
    w_OI = random(1030, 8192)  # more than one chunk
    assert w_OI.numel() > CHUNK_ELEMENTS
    parts = Int8().create(1030, in_features=8192, dtype=torch.float32, device=CPU)

    for start, stop in ((700, 1030), (0, 700)):
        parts.load_rows_(start, w_OI[start:stop])

    assert torch.equal(parts.dequantize(), weight_of(w_OI).dequantize())


def test_loading_does_not_change_what_was_given() -> None:
    w_OI = random(8, 16)
    before_OI = w_OI.clone()

    weight_of(w_OI)

    assert torch.equal(w_OI, before_OI)


def test_rows_of_zeros_stay_zeros() -> None:
    weight = weight_of(torch.zeros(4, 16))

    assert torch.equal(weight.matmul(random(2, 16)), torch.zeros(2, 4))
    assert torch.equal(weight.matmul(torch.zeros(2, 16)), torch.zeros(2, 4))


def test_token_that_is_not_finite_spoils_its_own_row_only() -> None:
    weight = weight_of(random(8, 16))
    x_TI = random(3, 16, seed=1)
    x_TI[1, 4] = torch.nan
    x_TI[2, 4] = torch.inf

    y_TO = weight.matmul(x_TI)

    assert bool(y_TO[0].isfinite().all())
    assert not bool(y_TO[1:].isfinite().any())


def test_tokens_are_quantized_symmetrically_with_ties_to_even() -> None:
    xq_MK, scale_M = quantize_tokens(torch.tensor([[-65278.0, 3.0, 5.0, 65278.0], [0, 0, 0, 0]]))

    assert xq_MK.tolist() == [[-32639, 2, 2, 32639], [0, 0, 0, 0]]
    assert scale_M[0].item() == 2.0


def test_small_values_beside_a_large_one_are_not_lost() -> None:
    x_MK = random(1, 256)
    x_MK[0, 7] = 500.0

    xq_MK, scale_M = quantize_tokens(x_MK)

    error_K = scale_M[0] * xq_MK[0].float() - x_MK[0]
    assert error_K.abs().max() < 500 / 32639 * 0.51


def test_embedding_rows_are_rows_of_the_dequantized_weight() -> None:
    weight = weight_of(random(40, 64), dtype=torch.bfloat16)
    ids_T = torch.tensor([3, 3, 39])

    rows_TI = weight.rows(ids_T)

    assert rows_TI.dtype == torch.bfloat16
    assert torch.equal(rows_TI, weight.dequantize()[ids_T])


def test_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="quantization 'int3' is unknown; known are none, int8"):
        scheme_named("int3")
