from __future__ import annotations

import random

import pytest

from lorry_loadtest.percentiles import describe
from lorry_loadtest.statistics.binomial import binomial_quantile
from lorry_loadtest.statistics.censored import censored_quantile
from lorry_loadtest.statistics.fairness import jain_index, worst_to_median
from lorry_loadtest.statistics.goodness import (
    chi_square_p_value,
    gamma_cdf,
    ks_distance,
    ks_p_value,
)
from lorry_loadtest.statistics.intervals import (
    batch_means_interval,
    quantile_interval,
    share_interval,
)
from lorry_loadtest.statistics.steady import drift, warm_up_cut


def test_binomial_quantiles_are_those_of_the_tables() -> None:
    assert binomial_quantile(20, 0.5, 0.025) == 6
    assert binomial_quantile(100, 0.5, 0.975) == 60
    assert binomial_quantile(1000, 0.99, 0.5) == 990
    assert abs(binomial_quantile(10_000_000, 0.5, 0.5) - 5_000_000) <= 1


def test_an_interval_of_a_quantile_covers_it_as_often_as_it_says() -> None:
    rng = random.Random(1)
    covered = 0
    for _ in range(400):
        interval = quantile_interval(sorted(rng.random() for _ in range(300)), 0.95)
        assert interval is not None
        covered += interval.low <= 0.95 <= interval.high

    assert covered / 400 >= 0.93


def test_a_small_sample_has_no_interval() -> None:
    assert quantile_interval(sorted(range(20)), 0.99) is None
    assert quantile_interval([], 0.5) is None


def test_percentiles_come_with_their_intervals() -> None:
    figures = describe([float(i) for i in range(1000)])

    assert figures.p95 == pytest.approx(949.05)
    assert figures.intervals["p95"].low < 949 < figures.intervals["p95"].high
    assert set(figures.intervals) == {"p50", "p90", "p95", "p99"}


def test_what_was_cut_off_pushes_percentiles_up_or_makes_them_unknown() -> None:
    finished = [float(i) for i in range(195)]

    few = describe(finished, [1000.0] * 5)
    many = describe(finished, [1000.0] * 20)

    assert few.p95 == 189.0
    assert (few.n, few.num_censored) == (200, 5)
    assert many.p95 is None
    assert many.above == {"p95": 1000.0}


def test_kaplan_and_meier_agree_with_the_plain_quantile_without_censoring() -> None:
    assert censored_quantile([3.0, 1.0, 2.0, 4.0], [], 0.5) == 2.0
    assert censored_quantile([1.0, 3.0], [2.0], 0.9) == 3.0
    assert censored_quantile([1.0], [2.0], 0.9) is None


def test_shares_have_intervals_inside_0_and_1() -> None:
    none, some = share_interval(0, 50), share_interval(25, 50)

    assert none is not None
    assert some is not None
    assert none.low == 0.0
    assert 0.05 < none.high < 0.1
    assert (some.low, some.high) == pytest.approx((0.366, 0.634), abs=0.001)
    assert share_interval(0, 0) is None


def test_dependent_values_have_wider_intervals_of_their_mean() -> None:
    rng = random.Random(2)
    independent = [rng.gauss(0, 1) for _ in range(400)]
    in_steps = [value for value in independent[:20] for _ in range(20)]

    narrow, wide = batch_means_interval(independent), batch_means_interval(in_steps)

    assert narrow is not None
    assert wide is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert batch_means_interval([1.0] * 30) is None


def test_a_warm_up_is_found_and_cut() -> None:
    rng = random.Random(3)
    values = [100 + rng.gauss(0, 1) for _ in range(60)] + [10 + rng.gauss(0, 1) for _ in range(440)]

    cut = warm_up_cut(values)

    assert cut is not None
    assert 55 <= cut <= 75
    assert warm_up_cut([5.0] * 400) == 0


def test_a_series_that_never_settles_has_no_cut() -> None:
    assert warm_up_cut([float(i) for i in range(400)]) is None
    assert warm_up_cut([1.0, 2.0]) is None


def test_drift_is_told_with_its_significance() -> None:
    rng = random.Random(4)
    steady = drift([10 + rng.gauss(0, 1) for _ in range(400)])
    moving = drift([10 + 2 * (i >= 200) + rng.gauss(0, 1) for i in range(400)])

    assert steady is not None
    assert moving is not None
    assert steady.significance < 4
    assert moving.relative == pytest.approx(0.2, abs=0.05)
    assert moving.significance > 4
    assert drift([1.0] * 10) is None


def test_goodness_of_fit_tells_right_from_wrong() -> None:
    rng = random.Random(5)
    gaps = [rng.expovariate(2.0) for _ in range(500)]

    right = ks_p_value(ks_distance(gaps, lambda x: gamma_cdf(x, shape=1.0, scale=0.5)), 500)
    wrong = ks_p_value(ks_distance(gaps, lambda x: gamma_cdf(x, shape=4.0, scale=0.125)), 500)

    assert right > 0.01
    assert wrong < 1e-6
    assert ks_p_value(0.0, 100) == 1.0


def test_chi_square_is_that_of_the_tables() -> None:
    assert chi_square_p_value([60, 40], [50.0, 50.0]) == pytest.approx(0.0455, abs=1e-4)
    assert chi_square_p_value([10, 20, 30], [20.0, 20.0, 20.0]) == pytest.approx(0.00674, abs=1e-5)
    assert chi_square_p_value([5], [5.0]) == 1.0
    assert gamma_cdf(30.0, shape=2.0, scale=1.0) == pytest.approx(1.0)


def test_fairness_is_one_when_all_are_served_alike() -> None:
    assert jain_index([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain_index([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain_index([]) is None
    assert worst_to_median([1.0, 2.0, 9.0]) == pytest.approx(4.5)
    assert worst_to_median([]) is None
