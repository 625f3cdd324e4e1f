from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorry_server.errors import ModelError
from lorry_server.kernels.affine_matmul import affine_group_matmul, affine_matmul
from lorry_server.quantization.affine_rows import CHUNK_ELEMENTS, AffineRows
from lorry_server.quantization.int4 import Int4Weight
from lorry_server.quantization.int8 import Int8Weight
from lorry_server.quantization.registry import scheme_named
from lorry_server.quantization.scheme import Weight
from lorry_server.quantization.zero_one import ZeroOneWeight

CPU = torch.device("cpu")
QUANTIZED = ("int8", "int4", "zero-one")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def empty(name: str, num_rows: int, num_columns: int, *, dtype: torch.dtype) -> Weight:
    return scheme_named(name).create(
        num_rows, in_features=num_columns, is_head=False, dtype=dtype, device=CPU
    )


def weight_of(w_OI: Tensor, name: str = "int8", *, dtype: torch.dtype = torch.float32) -> Weight:
    weight = empty(name, *w_OI.shape, dtype=dtype)
    weight.load_rows_(0, w_OI)
    return weight


@pytest.mark.parametrize("name", ["int8", "zero-one"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 96, 64), (17, 33, 576), (3, 5, 7), (0, 8, 8)])
def test_product_of_rows_has_the_bits_of_the_specification(
    name: str, m: int, n: int, k: int
) -> None:
    weight = weight_of(random(n, k), name)
    x_TI = random(m, k, seed=1) * 10
    assert isinstance(weight, AffineRows)

    y_TO = weight.matmul(x_TI)

    assert torch.equal(y_TO, affine_matmul(x_TI, weight.q_OI, weight.scale_O, weight.zero_O))


@pytest.mark.parametrize(("m", "n", "k"), [(1, 96, 64), (17, 33, 576), (3, 5, 7), (0, 8, 8)])
def test_product_of_groups_has_the_bits_of_the_specification(m: int, n: int, k: int) -> None:
    weight = weight_of(random(n, k), "int4")
    x_TI = random(m, k, seed=1) * 10
    assert isinstance(weight, Int4Weight)

    y_TO = weight.matmul(x_TI)

    expected_TO = affine_group_matmul(x_TI, weight.q_OI, weight.scale_OG, weight.zero_OG)
    assert torch.equal(y_TO, expected_TO)


@pytest.mark.parametrize("name", QUANTIZED)
def test_product_is_near_that_of_the_dequantized_weight(name: str) -> None:
    weight = weight_of(random(64, 250), name)
    x_TI = random(9, 250, seed=1)
    exact_TO = x_TI @ weight.dequantize().t()

    error_TO = weight.matmul(x_TI) - exact_TO

    assert error_TO.norm() / exact_TO.norm() < 0.01


@pytest.mark.parametrize(("name", "limit"), [("int8", 0.01), ("zero-one", 0.01), ("int4", 0.1)])
def test_dequantized_weight_is_near_the_weight(name: str, limit: float) -> None:
    w_OI = random(40, 250)

    error_OI = weight_of(w_OI, name).dequantize() - w_OI

    assert error_OI.norm() / w_OI.norm() < limit


@pytest.mark.parametrize("name", ["int8", "zero-one"])
def test_dequantized_rows_are_within_half_a_step_of_the_weight(name: str) -> None:
    w_OI = random(40, 64)
    weight = weight_of(w_OI, name)
    assert isinstance(weight, AffineRows)

    error_OI = (weight.dequantize() - w_OI).abs()

    assert bool((error_OI <= weight.scale_O[:, None] * 0.5001).all())


def test_dequantized_groups_are_within_a_step_of_the_weight() -> None:
    w_OI = random(40, 64)
    weight = weight_of(w_OI, "int4")
    assert isinstance(weight, Int4Weight)

    # half for the weight, and at the ends of the range half for the zero point
    error_OGJ = (weight.dequantize() - w_OI).abs().unflatten(1, (-1, 32))

    assert bool((error_OGJ <= weight.scale_OG[:, :, None] * 1.0001).all())


@pytest.mark.parametrize("name", ["int8", "zero-one"])
def test_affine_form_of_rows_gives_the_dequantized_weight(name: str) -> None:
    weight = weight_of(random(40, 50), name)
    assert isinstance(weight, AffineRows)

    affine_OI = weight.scale_O[:, None] * (weight.q_OI.float() - weight.zero_O[:, None])

    assert weight.q_OI.dtype == torch.uint8
    assert torch.equal(affine_OI, weight.dequantize())


def test_affine_form_of_groups_gives_the_dequantized_weight() -> None:
    weight = weight_of(random(40, 50), "int4")
    assert isinstance(weight, Int4Weight)

    q_OGJ = weight.q_OI.unflatten(1, (-1, 32)).float()
    affine_OI = (weight.scale_OG[:, :, None] * (q_OGJ - weight.zero_OG[:, :, None])).flatten(1)

    assert weight.q_OI.shape == (40, 64)
    assert weight.q_OI.max() <= 15
    assert torch.equal(affine_OI[:, :50], weight.dequantize())


def test_int8_rows_are_symmetric_and_have_scales_of_their_own() -> None:
    weight = weight_of(torch.tensor([[127.0, -3.0], [0.5, -1.27]]))
    assert isinstance(weight, Int8Weight)

    assert weight.q_OI.tolist() == [[255, 125], [178, 1]]
    assert weight.zero_O.tolist() == [128, 128]
    assert weight.is_symmetric


def test_zero_one_spreads_the_bytes_from_a_layers_smallest_to_its_largest_weight() -> None:
    weight = weight_of(torch.tensor([[-51.0, 0.0], [3.0, 204.0]]), "zero-one")
    assert isinstance(weight, ZeroOneWeight)

    assert weight.q_OI.tolist() == [[0, 51], [54, 255]]
    assert weight.scale_O.tolist() == [1, 1]
    assert weight.zero_O.tolist() == [51, 51]
    assert not weight.is_symmetric


@pytest.mark.parametrize("value", [0.0, 0.3, -1e-4, 7.0])
def test_a_constant_zero_one_layer_is_kept_exactly(value: float) -> None:
    w_OI = torch.full((3, 40), value)

    weight = weight_of(w_OI, "zero-one")

    assert torch.equal(weight.dequantize(), w_OI)
    assert torch.equal(weight.matmul(torch.zeros(1, 40)), torch.zeros(1, 3))


def test_each_module_of_a_fused_zero_one_layer_has_its_own_range() -> None:
    weight = empty("zero-one", 6, 64, dtype=torch.float32)
    small_OI, large_OI = random(2, 64), random(4, 64, seed=1) * 100
    weight.load_rows_(0, small_OI)
    weight.load_rows_(2, large_OI)

    alone_OI = torch.cat(
        [weight_of(w_OI, "zero-one").dequantize() for w_OI in (small_OI, large_OI)]
    )

    assert torch.equal(weight.dequantize(), alone_OI)


def test_the_head_stays_int8_under_int4() -> None:
    head = scheme_named("int4").create(
        8, in_features=64, is_head=True, dtype=torch.float32, device=CPU
    )

    assert isinstance(head, Int8Weight)


@pytest.mark.parametrize("name", QUANTIZED)
def test_row_result_does_not_depend_on_its_neighbours(name: str) -> None:
    weight = weight_of(random(64, 96), name)
    x_TI = random(12, 96, seed=1)
    x_TI[5] *= 1000

    alone_TO = torch.cat([weight.matmul(row_I[None]) for row_I in x_TI])

    assert torch.equal(weight.matmul(x_TI), alone_TO)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_rows_loaded_in_parts_are_those_loaded_at_once(name: str) -> None:
    w_OI = random(1030, 8192)  # more than one chunk
    assert w_OI.numel() > CHUNK_ELEMENTS
    parts = empty(name, 1030, 8192, dtype=torch.float32)

    for start, stop in ((700, 1030), (0, 700)):
        parts.load_rows_(start, w_OI[start:stop])

    assert torch.equal(parts.dequantize(), weight_of(w_OI, name).dequantize())


@pytest.mark.parametrize("name", QUANTIZED)
def test_loading_does_not_change_what_was_given(name: str) -> None:
    w_OI = random(8, 16)
    before_OI = w_OI.clone()

    weight_of(w_OI, name)

    assert torch.equal(w_OI, before_OI)


@pytest.mark.parametrize("name", QUANTIZED)
def test_rows_of_zeros_stay_zeros(name: str) -> None:
    weight = weight_of(torch.zeros(4, 16), name)

    assert torch.equal(weight.dequantize(), torch.zeros(4, 16))
    assert torch.equal(weight.matmul(random(2, 16)), torch.zeros(2, 4))


@pytest.mark.parametrize("name", QUANTIZED)
def test_embedding_rows_are_rows_of_the_dequantized_weight(name: str) -> None:
    weight = weight_of(random(40, 50), name, dtype=torch.bfloat16)
    ids_T = torch.tensor([3, 3, 39])

    rows_TI = weight.rows(ids_T)

    assert rows_TI.dtype == torch.bfloat16
    assert torch.equal(rows_TI, weight.dequantize()[ids_T])


def test_unknown_scheme_is_refused_with_the_known_names() -> None:
    with pytest.raises(ModelError, match="'int3' is unknown; known are none, int8, int4, zero-one"):
        scheme_named("int3")
