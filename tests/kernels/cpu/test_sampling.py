"""The compiled sampler gives the reference's tokens, and its logprobs to the bit.

Shape legend: N logits rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lorry_server.engine.plan import SAMPLE
from tests.support.kernel_sampling import assert_same_result, sample_compiled
from tests.support.kernel_tape import needs_kernels
from tests.support.logits_plans import make_plan

pytestmark = needs_kernels
SIZES = [1, 2, 15, 16, 17, 33, 100, 1000]
NUM_ROWS = 60
FILTERS: list[dict[str, float]] = [
    {"top_k": 1},
    {"top_k": 20},
    {"top_k": 100_000},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"typical_p": 0.2},
    {"typical_p": 0.95},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.02},
    {"top_k": 500, "top_p": 0.99, "min_p": 0.001, "typical_p": 0.9},
]


def random_logits(num_rows: int, size: int, *, spread: float = 3.0) -> Tensor:
    return torch.randn(num_rows, size, generator=torch.Generator().manual_seed(size)) * spread


def seeds(num_rows: int) -> np.ndarray:
    return np.random.default_rng(5).integers(-(2**63), 2**63 - 1, num_rows)


@pytest.mark.parametrize("size", [*SIZES, 49152])
def test_the_likeliest_token_is_the_references(size: int) -> None:
    logits_NV = random_logits(21, size) - 50

    result = sample_compiled(logits_NV, make_plan(21), num_threads=2)

    assert result.token_ids_N.tolist() == logits_NV.argmax(dim=-1).tolist()
    assert not result.status_N.any()


@pytest.mark.parametrize("size", [20, 64, 100])
def test_the_first_of_equals_is_chosen(size: int) -> None:
    ties_NT = torch.tensor([[3, 17], [0, size - 1], [16, 19], [size - 2, size - 1]])
    logits_NV = torch.full((4, size), -2.0).scatter_(1, ties_NT, 1.5)
    logits_NV = torch.cat((logits_NV, torch.zeros(1, size)))

    result = sample_compiled(logits_NV, make_plan(5))

    assert result.token_ids_N.tolist() == [*ties_NT[:, 0].tolist(), 0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 15, 16, 40, 99])
def test_a_logit_that_is_not_finite_is_flagged_in_its_row_only(place: int, value: float) -> None:
    logits_NV = random_logits(5, 100)
    logits_NV[1, place] = logits_NV[3, place] = value
    plan = make_plan(5, num_logprobs=[2, 2, 0, -1, 1], temperature=[0, 0.7, 1, 1, 0])

    result = assert_same_result(logits_NV, plan)

    assert result.status_N.tolist() == [0, 1, 0, 1, 0]
    assert result.token_ids_N[[1, 3]].tolist() == [0, 0]


def test_rows_are_flagged_where_all_logits_are_nan() -> None:
    logits_NV = torch.full((3, 100), torch.nan)
    logits_NV[2] = 0.0

    assert sample_compiled(logits_NV, make_plan(3)).status_N.tolist() == [1, 1, 0]


@pytest.mark.parametrize("temperature", [1e-4, 0.3, 1.0, 2.5, 100.0])
@pytest.mark.parametrize("size", SIZES)
def test_draws_are_the_references(size: int, temperature: float) -> None:
    plan = make_plan(128, temperature=temperature, seeds=seeds(128), positions=np.arange(128))

    assert_same_result(random_logits(128, size), plan, num_threads=2)


def test_draws_from_a_large_vocabulary_are_the_references() -> None:
    rising_V = torch.linspace(-20, 5, 49152)
    logits_NV = torch.cat((random_logits(9, 49152), torch.stack((rising_V, 0.0 * rising_V))))

    assert_same_result(logits_NV, make_plan(11, temperature=1.0, seeds=seeds(11)))


def test_many_draws_from_a_flat_row_are_the_references() -> None:
    tokens: set[int] = set()
    for start in range(0, 4096, 128):
        plan = make_plan(128, temperature=1.0, seeds=7, positions=np.arange(start, start + 128))
        result = assert_same_result(torch.full((128, 50), 1.25), plan)
        tokens.update(result.token_ids_N.tolist())

    assert tokens == set(range(50))


def test_draws_follow_the_softmax() -> None:
    logits_V = random_logits(1, 12, spread=1.0)[0]
    count_V = np.zeros(12)

    for start in range(0, 20_480, 128):
        plan = make_plan(128, temperature=1.0, seeds=np.arange(start, start + 128))
        result = sample_compiled(logits_V.expand(128, -1), plan)
        count_V += np.bincount(result.token_ids_N, minlength=12)

    expected_V = 20_480 * logits_V.double().softmax(-1).numpy()
    assert ((count_V - expected_V) ** 2 / expected_V).sum() < 31.3  # 99.9 %, 11 degrees


@pytest.mark.parametrize("columns", FILTERS, ids=str)
@pytest.mark.parametrize("size", [1, 17, 100, 1000])
def test_filters_keep_what_the_reference_keeps(size: int, columns: dict[str, float]) -> None:
    temperature = np.linspace(0.2, 4.0, NUM_ROWS)
    plan = make_plan(NUM_ROWS, temperature=temperature, seeds=seeds(NUM_ROWS), **columns)

    assert_same_result(random_logits(NUM_ROWS, size), plan)


@pytest.mark.parametrize("columns", FILTERS, ids=str)
def test_filters_take_the_lower_of_equal_tokens_first(columns: dict[str, float]) -> None:
    logits_NV = random_logits(NUM_ROWS, 200).round()
    logits_NV[:3] = torch.tensor([[0.0], [-7.5], [3.0]])
    logits_NV[3, ::2] *= -0.0
    plan = make_plan(NUM_ROWS, temperature=1.0, seeds=seeds(NUM_ROWS), **columns)

    assert_same_result(logits_NV, plan)


def test_filters_of_a_large_vocabulary_are_the_references() -> None:
    logits_NV = random_logits(6, 49152)
    plan = make_plan(
        6,
        temperature=[0.7, 1.0, 1.3, 50.0, 1.0, 1.0],
        seeds=seeds(6),
        top_p=[0.9, 0.95, 0.5, 0.9, 1.0, 1.0],
        top_k=[0, 0, 40, 0, 3000, 0],
        typical_p=[1.0, 1.0, 1.0, 1.0, 1.0, 0.9],
    )

    assert_same_result(logits_NV, plan)


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_only_the_k_likeliest_are_drawn(kept: int) -> None:
    logits_V = random_logits(1, 40)[0]
    plan = make_plan(128, temperature=3.0, seeds=np.arange(128), top_k=kept)

    result = sample_compiled(logits_V.expand(128, -1), plan)

    assert set(result.token_ids_N.tolist()) == set(logits_V.topk(kept).indices.tolist())


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("size", [5, 100, 1000])
def test_penalties_and_biases_are_the_references(size: int, temperature: float) -> None:
    random = np.random.default_rng(size)
    lengths = random.integers(0, 50, NUM_ROWS)
    histories = [random.integers(0, size, length).tolist() for length in lengths]
    values = [1.5, -2.0, -np.inf, 100.0, -100.0]
    biases = [
        dict(zip(random.integers(0, size, 5).tolist(), values, strict=True)) if row % 3 else {}
        for row in range(NUM_ROWS)
    ]
    plan = make_plan(
        NUM_ROWS,
        temperature=temperature,
        seeds=seeds(NUM_ROWS),
        histories=histories,
        prompt_lens=lengths // 2,
        presence=random.uniform(-2, 2, NUM_ROWS),
        frequency=random.uniform(-2, 2, NUM_ROWS),
        repetition=random.uniform(0.5, 2, NUM_ROWS),
        biases=biases,
        top_p=np.where(np.arange(NUM_ROWS) % 2, 0.9, 1.0),
        num_logprobs=1,
    )

    assert_same_result(random_logits(NUM_ROWS, size), plan, num_threads=2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_whose_tokens_are_all_forbidden_yields_the_first(temperature: float) -> None:
    biases = [dict.fromkeys(range(20), -np.inf)]
    plan = make_plan(1, temperature=temperature, biases=biases, top_p=0.9, typical_p=0.9)

    assert assert_same_result(random_logits(1, 20), plan).token_ids_N.tolist() == [0]


@pytest.mark.parametrize("size", [*SIZES, 49152])
def test_logprobs_have_the_references_bits(size: int) -> None:
    num_rows = 60 if size < 49152 else 8
    places = np.arange(num_rows)
    plan = make_plan(
        num_rows,
        temperature=np.where(places % 2, 0.9, 0.0),
        targets=np.where(places % 3 == 0, places % size, SAMPLE),
        num_logprobs=places % 8 - 1,
    )

    assert_same_result(random_logits(num_rows, size).round(decimals=1), plan, num_threads=2)


def test_logprobs_are_close_to_exact_ones() -> None:
    logits_NV = random_logits(10, 1000, spread=6.0)

    result = sample_compiled(logits_NV, make_plan(10, targets=np.arange(10), num_logprobs=0))

    exact_N = logits_NV.double().log_softmax(-1).diagonal()[:10]
    assert np.abs(result.logprobs_N - exact_N.numpy()).max() < 2e-6


def test_more_alternatives_than_tokens_leave_zeros() -> None:
    result = assert_same_result(random_logits(2, 3), make_plan(2, num_logprobs=[5, 1]))

    assert result.top_ids_NK.shape == (2, 5)
    assert not result.top_logprobs_NK[0, 3:].any()
    assert not result.top_logprobs_NK[1, 1:].any()
