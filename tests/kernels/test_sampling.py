"""The reference sampler: greedy, distributions, filters, penalties, and independence of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorry_server.engine.plan import NON_FINITE, SAMPLE, StepResult
from lorry_server.kernels.filters import filter_
from lorry_server.kernels.sampling import gumbel_noise
from lorry_server.runner.sampler import sample
from tests.support.logits_plans import make_plan

VOCAB = 8


def random_logits(num_rows: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


def draw(logits_V: list[float] | torch.Tensor, count: int, **columns: object) -> np.ndarray:
    """Relative frequency of each token over `count` seeds."""
    logits = torch.as_tensor(logits_V).float().expand(count, -1).clone()
    plan = make_plan(count, **{"temperature": 1.0, "seeds": np.arange(count)} | columns)
    result = sample(logits, plan)
    return np.bincount(result.token_ids_N, minlength=logits.shape[1]) / count


def tokens(result: StepResult) -> list[int]:
    return result.token_ids_N.tolist()


def test_greedy_rows_take_the_largest_logit() -> None:
    logits = random_logits(5)

    assert tokens(sample(logits.clone(), make_plan(5))) == logits.argmax(-1).tolist()


def test_draws_follow_the_softmax() -> None:
    logits = random_logits(1)[0]

    frequencies = draw(logits, 20_000)

    expected = logits.softmax(-1).numpy()
    chi_square = (20_000 * (frequencies - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 99.9 % point at 7 degrees of freedom


def test_a_low_temperature_sharpens_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0])

    warm, cold = draw(logits, 4000)[1], draw(logits, 4000, temperature=0.25)[1]

    assert abs(warm - torch.sigmoid(torch.tensor(1.0)).item()) < 0.03
    assert abs(cold - torch.sigmoid(torch.tensor(4.0)).item()) < 0.03


def test_a_row_draws_the_same_token_whatever_stands_beside_it() -> None:
    row = random_logits(1, seed=3)
    alone = tokens(sample(row.clone(), make_plan(1, temperature=0.9, seeds=77)))

    crowd = torch.cat([random_logits(6, seed=4), row])
    plan = make_plan(7, temperature=0.9, seeds=[1, 2, 3, 4, 5, 6, 77], top_k=[3] * 6 + [0])

    assert tokens(sample(crowd, plan))[-1:] == alone


def test_noise_depends_on_seed_and_position() -> None:
    seeds = torch.tensor([1, 1, 2])
    positions = torch.tensor([5, 6, 5])

    noise = gumbel_noise(seeds, positions, vocab_size=1000)

    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert torch.equal(gumbel_noise(seeds[:1], positions[:1], vocab_size=1000)[0], noise[0])
    assert torch.isfinite(noise).all()


def test_noise_has_the_moments_of_a_gumbel_distribution() -> None:
    noise = gumbel_noise(torch.arange(50), torch.arange(50), vocab_size=4000)

    assert abs(noise.mean().item() - 0.5772) < 0.01
    assert abs(noise.var().item() - 1.6449) < 0.03


def test_negative_and_huge_seeds_are_fine() -> None:
    plan = make_plan(2, temperature=1.0, seeds=[-(2**63), 2**63 - 1])

    assert all(0 <= token < VOCAB for token in tokens(sample(random_logits(2), plan)))


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.6}, {0, 1}),  # 0.5 alone does not reach 0.6
        ({"top_p": 0.49}, {0}),  # which 0.5 alone reaches
        ({"top_p": 1e-6}, {0}),
        ({"min_p": 0.5}, {0, 1}),  # at least half of the best token's 0.5
        ({"min_p": 1.0}, {0}),
        ({"top_k": 3, "top_p": 0.9}, {0, 1, 2}),  # 0.5 and 0.3 of 0.95 do not reach 0.9
        ({"typical_p": 0.2}, {1}),  # its surprise is nearest to the entropy
    ],
)
def test_filters_keep_what_they_should(columns: dict[str, float], kept: set[int]) -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    frequencies = draw(logits, 2000, **columns)

    assert set(np.flatnonzero(frequencies)) == kept


def test_filters_that_are_off_change_nothing() -> None:
    logits = random_logits(3)
    filtered = logits.clone()

    filter_(
        filtered,
        top_k_N=torch.zeros(3, dtype=torch.int32),
        top_p_N=torch.ones(3),
        min_p_N=torch.zeros(3),
        typical_p_N=torch.ones(3),
    )

    assert torch.equal(filtered, logits)


def test_repetition_penalty_works_on_prompt_and_completion() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0, -1.1]])
    plan = make_plan(1, repetition=2.0, histories=[[0, 2]], prompt_lens=1)

    result = sample(logits, plan)

    assert tokens(result) == [1]
    assert logits.tolist() == [[1.0, pytest.approx(1.9), -2.0, pytest.approx(-1.1)]]


def test_presence_and_frequency_count_the_completion_only() -> None:
    logits = torch.zeros(1, 4)
    plan = make_plan(1, presence=0.5, frequency=0.25, histories=[[3, 1, 1, 2]], prompt_lens=1)

    sample(logits, plan)

    assert logits.tolist() == [[0.0, -1.0, -0.75, 0.0]]


def test_rows_without_a_history_are_not_penalised() -> None:
    logits = random_logits(2)
    before = logits.clone()

    sample(logits, make_plan(2, presence=2.0, histories=[[], [1]]))

    assert torch.equal(logits[0], before[0])
    assert not torch.equal(logits[1], before[1])


def test_a_bias_moves_the_choice_and_minus_infinity_forbids() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    plan = make_plan(2, biases=[{0: -float("inf")}, {2: 100.0}])

    assert tokens(sample(logits, plan)) == [1, 2]


def test_logprobs_are_of_the_model_before_bias_and_temperature() -> None:
    logits = random_logits(2)
    expected = logits.log_softmax(-1)
    plan = make_plan(2, num_logprobs=[2, -1], biases=[{3: 100.0}, {}], temperature=0.7)

    result = sample(logits.clone(), plan)

    assert result.token_ids_N[0] == 3
    assert result.logprobs_N[0] == pytest.approx(expected[0, 3].item())
    best = expected[0].topk(2)
    assert result.top_ids_NK[0].tolist() == best.indices.tolist()
    assert result.top_logprobs_NK[0].tolist() == pytest.approx(best.values.tolist())


def test_a_row_with_a_target_gives_its_logprob() -> None:
    logits = random_logits(2)
    expected = logits.log_softmax(-1)

    result = sample(logits, make_plan(2, targets=[6, SAMPLE], num_logprobs=0))

    assert result.token_ids_N[0] == 6
    assert result.logprobs_N[0] == pytest.approx(expected[0, 6].item())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named_and_harms_no_other(value: float) -> None:
    logits = random_logits(3)
    wanted = logits.argmax(-1).tolist()
    logits[1, 2] = value

    result = sample(logits, make_plan(3, num_logprobs=1))

    assert result.status_N.tolist() == [0, NON_FINITE, 0]
    assert [tokens(result)[0], tokens(result)[2]] == [wanted[0], wanted[2]]
    assert np.isfinite(result.logprobs_N).all()
