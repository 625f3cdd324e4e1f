from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorry_loadtest.percentiles import describe
from lorry_loadtest.statistics.quantiles import quantile, samples_needed


def test_quantiles_interpolate_between_neighbours() -> None:
    values = [10.0, 20.0, 30.0, 40.0]

    assert quantile(values, 0.5) == 25.0
    assert quantile(values, 0.9) == pytest.approx(37.0)
    assert quantile(values, 0.0) == 10.0
    assert quantile(values, 1.0) == 40.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_between_the_extremes(values: list[float], q: float) -> None:
    ordered = sorted(values)

    assert ordered[0] <= quantile(ordered, q) <= ordered[-1]


@pytest.mark.parametrize(("q", "n"), [(0.5, 20), (0.9, 100), (0.95, 200), (0.99, 1000)])
def test_a_percentile_needs_ten_samples_beyond_it(q: float, n: int) -> None:
    assert samples_needed(q) == n


def test_percentiles_with_too_few_samples_are_not_shown() -> None:
    enough_for_the_median = describe([float(i) for i in range(20)])

    assert enough_for_the_median.p50 == 9.5
    assert enough_for_the_median.p95 is None
    assert describe([1.0] * 19).p50 is None


def test_an_empty_sample_is_described_without_figures() -> None:
    assert describe([]).n == 0
    assert describe([]).mean is None
