"""The parts of a study that need no server: the grid, the cohort, intervals, cautions."""

from __future__ import annotations

import math
import random
import re
from itertools import islice
from typing import Any

import pytest

import lorry
from lorry.distribution import Distribution
from lorry.sweep.cautions import cautions, drift, remarks
from lorry.sweep.cohort import Cohort
from lorry.sweep.confidence import (
    Estimate,
    latency,
    mean_ratio,
    quantile_estimate,
    quantile_ranks,
    rate_estimate,
)
from lorry.sweep.grid import read_grid
from lorry.sweep.plan import read_plan
from lorry.sweep.point import PointSetting, RequestRecord
from lorry.sweep.requests import PromptPool

SETTING = PointSetting(adapters=(None,), max_tokens=(16,), concurrency=4)


def grid(**given: Any) -> list[PointSetting]:
    arguments = {"concurrency": [1], "arrivals": None, "adapters": [None], "max_tokens": [8]}
    return [point.setting for point in read_grid(**(arguments | given))]


def test_the_grid_is_every_combination_curve_by_curve() -> None:
    points = grid(concurrency=[1, 8], adapters=[None, ["a", "b"]], max_tokens=[16, [16, 256]])

    assert [(p.adapters, p.max_tokens, p.concurrency) for p in points] == [
        ((None,), (16,), 1),
        ((None,), (16,), 8),
        ((None,), (16, 256), 1),
        ((None,), (16, 256), 8),
        (("a", "b"), (16,), 1),
        (("a", "b"), (16,), 8),
        (("a", "b"), (16, 256), 1),
        (("a", "b"), (16, 256), 8),
    ]
    assert str(points[-1]) == "a + b, 16 + 256 tokens, 8 in flight"


def test_an_open_loop_has_schedules_for_loads() -> None:
    points = grid(concurrency=None, arrivals=[lorry.Poisson(2), lorry.Poisson(4)])

    assert [point.arrivals for point in points] == [
        "Poisson(requests_per_s=2, seed=0)",
        "Poisson(requests_per_s=4, seed=0)",
    ]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"concurrency": None}, "give one"),
        ({"arrivals": [lorry.Constant(1)]}, "give one"),
        ({"concurrency": []}, "concurrency is empty"),
        ({"concurrency": [0]}, "concurrency holds 0"),
        ({"concurrency": [True]}, "concurrency holds True"),
        ({"concurrency": [1, 1]}, "is there twice"),
        ({"adapters": "pirate"}, "adapters is 'pirate'; it must be a list"),
        ({"adapters": [7]}, "adapters holds 7; an entry is a name, None"),
        ({"adapters": [[]]}, r"adapters holds \[\]"),
        ({"max_tokens": [[]]}, r"max_tokens holds \[\]"),
        ({"max_tokens": [[8, 0.5]]}, "max_tokens holds 0.5"),
        ({"concurrency": None, "arrivals": [3]}, "arrivals holds 3; it must be a lorry.Constant"),
    ],
)
def test_a_wrong_grid_is_refused_by_name(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises((TypeError, ValueError), match=complaint):
        grid(**given)


def test_the_plan_takes_one_size_and_defaults_to_a_hundred_requests() -> None:
    plan = read_plan(requests_per_point=None, duration_s=None, warmup=None)

    assert plan.requests_per_point == 100
    assert plan.num_warmup(SETTING) == 4
    assert plan.num_warmup(PointSetting(adapters=(None,), max_tokens=(8,), arrivals="x")) == 16
    for wrong in (
        {"requests_per_point": 5, "duration_s": 1.0, "warmup": None},
        {"requests_per_point": 0, "duration_s": None, "warmup": None},
        {"requests_per_point": None, "duration_s": math.nan, "warmup": None},
        {"requests_per_point": None, "duration_s": None, "warmup": -1},
    ):
        with pytest.raises(ValueError, match=r"requests_per_point|duration_s|warmup"):
            read_plan(**wrong)  # type: ignore[arg-type]  # a table of wrong ones


def test_every_adapter_gets_every_length_and_every_point_the_same_prompts() -> None:
    pool = PromptPool(["a", "b", "c"], seed=5)
    setting = PointSetting(adapters=("x", None), max_tokens=(1, 2), concurrency=1)
    other = PointSetting(adapters=(None,), max_tokens=(9,), concurrency=64)
    requests = list(islice(pool.requests(setting), 12))

    said = [(r.options["adapter"], r.options["max_tokens"]) for r in requests[:5]]
    assert said == [("x", 1), ("", 1), ("x", 2), ("", 2), ("x", 1)]
    assert [r.prompt for r in requests] == [r.prompt for r in islice(pool.requests(other), 12)]
    assert sorted(str(r.prompt) for r in requests) == sorted("abc" * 4)
    assert [r.options["tag"] for r in requests] == list(range(12))
    assert PromptPool(["a", "b", "c"], seed=6).digest == pool.digest
    assert PromptPool(["a", "c", "b"], seed=5).digest != pool.digest


def test_made_prompts_are_all_different_and_come_again_with_their_seed() -> None:
    def prompts(seed: int, setting: PointSetting) -> list[object]:
        return [r.prompt for r in islice(PromptPool(None, seed=seed).requests(setting), 50)]

    other = PointSetting(adapters=(None,), max_tokens=(16,), concurrency=8)
    first = prompts(1, SETTING)
    assert len({str(prompt).split()[0] for prompt in first}) == 50
    assert first == prompts(1, SETTING)
    assert not set(map(str, first)) & set(map(str, prompts(1, other)))
    assert first != prompts(2, SETTING)


def test_prompts_that_set_what_the_sweep_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="sets 'max_tokens', which the sweep sets itself"):
        PromptPool([lorry.Request("a", max_new_tokens=4)], seed=0)
    with pytest.raises(ValueError, match="prompts is empty"):
        PromptPool([], seed=0)


def test_ramp_up_and_drain_are_not_measured_and_no_slow_request_is_left_out() -> None:
    cohort = Cohort(num_warmup=2, num_requests=3, duration_ns=None)

    assert [cohort.start(0, 0), cohort.start(1, 0)] == ["warmup", "warmup"]
    cohort.end(0, 100)
    assert cohort.start(2, 100) == "measured"
    cohort.end(1, 150)
    assert cohort.start(3, 150) == "measured"
    cohort.end(3, 200)
    assert cohort.start(4, 200) == "measured"
    cohort.end(4, 300)
    assert cohort.start(5, 300) == "drain"  # request 2 still wants its neighbour
    assert not cohort.is_complete
    cohort.end(5, 400)
    assert cohort.start(6, 400) == "drain"
    cohort.end(2, 900)

    assert cohort.is_complete
    assert (cohort.window_start_ns, cohort.window_end_ns) == (100, 300)
    assert (cohort.num_measured, cohort.num_drain) == (3, 2)


def test_a_duration_measures_what_starts_in_it() -> None:
    cohort = Cohort(num_warmup=0, num_requests=None, duration_ns=1_000)

    assert cohort.start(0, 5_000) == "measured"
    cohort.end(0, 5_600)
    assert cohort.start(1, 5_600) == "measured"
    assert not cohort.is_complete
    cohort.end(1, 6_400)

    assert cohort.is_complete
    assert cohort.window_end_ns == 6_000
    assert cohort.start(2, 6_400) == "drain"


def test_a_single_request_alone_has_its_own_duration_for_a_window() -> None:
    cohort = Cohort(num_warmup=0, num_requests=1, duration_ns=None)
    cohort.start(0, 10)
    cohort.end(0, 70)

    assert cohort.is_complete
    assert (cohort.window_start_ns, cohort.window_end_ns) == (10, 70)


@pytest.mark.parametrize(("n", "q"), [(6, 0.5), (20, 0.5), (100, 0.95), (1000, 0.99), (999, 0.5)])
def test_the_ranks_enclose_the_quantile_with_the_probability_that_is_claimed(
    n: int, q: float
) -> None:
    lower, upper = quantile_ranks(n, q)

    def at_most(k: int) -> float:
        return sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1))

    assert lower is not None
    assert at_most(lower - 1) <= 0.025 < at_most(lower)
    if upper is None:
        assert at_most(n - 1) < 0.975
    else:
        assert at_most(upper - 2) < 0.975 <= at_most(upper - 1)


def test_five_values_are_too_few_for_an_interval_of_the_median() -> None:
    assert quantile_ranks(5, 0.5) == (None, None)
    assert quantile_estimate([1, 2, 3, 4, 5], 0.5) == Estimate(3.0)


def test_intervals_of_medians_hold_the_true_one_as_often_as_they_say() -> None:
    draw = random.Random(4)
    held = 0
    for _ in range(400):
        estimate = quantile_estimate(sorted(draw.expovariate(1.0) for _ in range(50)), 0.5)
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= math.log(2) <= estimate.high
    assert held / 400 >= 0.93


def test_latencies_below_their_floor_are_not_shown() -> None:
    few, more = latency([1.0] * 19), latency([1.0] * 200)

    assert (few.n, few.mean, few.p50) == (19, 1.0, None)
    assert more.p50 == Estimate(1.0, 1.0, 1.0)
    assert more.p95 is not None
    assert more.p99 is None
    assert latency([]).mean is None


def test_the_interval_of_a_rate_comes_from_its_slices() -> None:
    assert rate_estimate([5.0] * 10) == Estimate(5.0, 5.0, 5.0)
    wide = rate_estimate([4.0, 6.0] * 5)
    assert wide.low is not None
    assert wide.high is not None
    assert wide.value == 5.0
    assert wide.high - 5.0 == pytest.approx(2.262 * (10 / 9) ** 0.5 / 10**0.5)


def test_ratios_of_points_have_a_geometric_mean_and_an_interval() -> None:
    same = Estimate(10.0, 9.0, 11.0)
    twice = Estimate(20.0, 18.0, 22.0)
    half = Estimate(5.0, 4.5, 5.5)

    level = mean_ratio([(same, twice), (same, half)])
    assert level is not None
    assert level.value == pytest.approx(1.0)
    assert level.low is not None
    assert level.high is not None
    assert level.low < 1 < level.high
    assert mean_ratio([(same, Estimate(20.0))]) == Estimate(pytest.approx(2.0))
    assert mean_ratio([(same, Estimate(0.0))]) is None


def record(index: int, **given: Any) -> RequestRecord:
    values: dict[str, Any] = {
        "phase": "measured",
        "adapter": None,
        "max_tokens": 16,
        "start_s": index / 10,
        "lateness_s": 0.0,
        "queue_s": 0.0,
        "ttft_s": 0.1,
        "ttft_from_intended_s": 0.1,
        "tpot_s": 0.01,
        "prompt_tokens": 100,
        "finish_reason": "length",
    }
    return RequestRecord(index=index, **(values | given))


def warned(
    records: list[RequestRecord],
    *,
    loop_lag: Distribution | None = None,
    client_cpu_share: float = 0.2,
    max_in_flight: int = 4,
) -> tuple[str, ...]:
    return cautions(
        records,
        setting=SETTING,
        loop_lag=loop_lag or Distribution(n=10, max=0.001),
        client_cpu_share=client_cpu_share,
        max_in_flight=max_in_flight,
    )


def test_a_clean_point_has_no_caution() -> None:
    records = [record(index) for index in range(40)]

    assert warned(records) == ()
    assert remarks(records) == ()


@pytest.mark.parametrize(
    ("changes", "given", "caution"),
    [
        (
            {"error": "Overloaded"},
            {},
            r"40 of 40 requests failed \(40 Overloaded; the first: no message\)",
        ),
        ({}, {"loop_lag": Distribution(n=9, max=0.08)}, "event loop was late at times, by 80 ms"),
        ({}, {"client_cpu_share": 0.97}, "used 97% of a core"),
        ({"queue_s": 0.05}, {}, "waited 50 ms in this client"),
        ({"lateness_s": 0.05}, {}, "went out 50 ms after their time"),
        ({}, {"max_in_flight": 3}, "only 3 of 4 requests"),
    ],
)
def test_each_doubt_is_said(changes: dict[str, Any], given: dict[str, Any], caution: str) -> None:
    records = [record(index, **changes) for index in range(40)]

    assert any(re.search(caution, said) for said in warned(records, **given))


def test_too_few_requests_are_said() -> None:
    assert warned([record(0)]) == ("too few requests for a median: 1 of the 20 that it needs",)


def test_drift_between_the_halves_is_flagged_and_noise_is_not() -> None:
    draw = random.Random(1)
    noise = [0.1 + draw.gauss(0, 0.02) for _ in range(200)]
    rising = [value + index * 0.0005 for index, value in enumerate(noise)]

    assert drift("time to first token", noise) is None
    assert drift("time to first token", [0.1] * 18) is None
    said = drift("time to first token", rising)
    assert said is not None
    assert said.startswith("time to first token drifted, from 12")


def test_what_the_cache_gave_and_what_ended_early_is_remarked() -> None:
    records = [record(i, cached_tokens=64, finish_reason="stop") for i in range(20)]

    said = remarks(records)
    assert said[0] == "64% of the prompt tokens came from the server's prefix cache"
    assert said[1].startswith("20 of 20 answers ended before max_tokens; ignore_eos=True")
