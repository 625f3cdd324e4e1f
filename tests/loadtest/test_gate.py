from __future__ import annotations

import math
from collections import Counter

import msgspec
import pytest

from lorry_loadtest.gate.gate import GatedRun, gate_exit_code, judge_gate
from lorry_loadtest.gate.limit import GateLimit, parse_gate
from lorry_loadtest.gate.lines import gate_table
from lorry_loadtest.gate.pairing import NotComparable, pair
from lorry_loadtest.slo import parse_objectives
from lorry_loadtest.statistics.bootstrap import MANY_PAIRS, block_length, paired_ratio
from tests.support.simulated_pairs import simulated_pair

TPOT = parse_gate("tpot_p95:+5%")


def changed(run: GatedRun, **fields: object) -> GatedRun:
    return msgspec.structs.replace(run, figures=msgspec.structs.replace(run.figures, **fields))


def statuses(slower: float, *, num_pairs: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in range(num_pairs):
        baseline, candidate = simulated_pair(seed, slower=slower, num_requests=800)
        found[judge_gate(baseline, candidate, parse_gate("tpot_mean:+5%"))[0].status] += 1
    return found


def test_an_unchanged_server_raises_no_alarm_in_95_of_100() -> None:
    assert statuses(0.0, num_pairs=40)["regression"] <= 2


def test_a_regression_of_5_percent_is_found_in_90_of_100() -> None:
    assert statuses(0.05, num_pairs=40)["regression"] >= 36


@pytest.mark.parametrize("gate", ["tpot_mean:+5%", "tpot_p95:+5%", "throughput:-5%"])
def test_a_long_run_is_judged_like_a_short_one(gate: str) -> None:
    """Of so many pairs fewer resamples are drawn."""
    assert MANY_PAIRS < 25_000
    closed: dict[str, list[GatedRun]] = {}
    for name, slower in (("same", 0.0), ("slower", 0.08)):
        runs = simulated_pair(1, num_requests=25_000, slower=slower)
        closed[name] = [msgspec.structs.replace(run, concurrency=8) for run in runs]

    (same,) = judge_gate(*closed["same"], parse_gate(gate))
    (slow,) = judge_gate(*closed["slower"], parse_gate(gate))

    assert (same.status, slow.status) == ("pass", "regression")
    assert same.low < same.ratio < same.high


def test_a_gate_is_read_with_its_sign() -> None:
    assert parse_gate("tpot_p95:+5%, goodput:-3%") == (
        GateLimit("tpot", "p95", 1.05),
        GateLimit("goodput", None, 0.97),
    )
    assert str(TPOT[0]) == "TPOT p95 +5 %"
    assert str(parse_gate("goodput:-3%")[0]) == "goodput -3 %"


@pytest.mark.parametrize(
    "text", ["tpot_p95", "tpot_p95:-5%", "goodput:+3%", "tpot_p42:+5%", "goodput:-100%", ""]
)
def test_a_wrong_gate_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a gate"):
        parse_gate(text)


def test_a_gate_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="allows no change"):
        parse_gate("tpot_p95:+0%")


def test_the_same_run_passes_and_says_its_power() -> None:
    baseline, _ = simulated_pair(1)

    (result,) = judge_gate(baseline, baseline, TPOT)

    assert (result.status, result.ratio, result.power) == ("pass", 1.0, 1.0)
    assert gate_exit_code([result]) == 0


def test_a_short_noisy_run_is_undecided_and_says_how_long_it_should_be() -> None:
    baseline, candidate = simulated_pair(3, num_requests=210, noise=0.4, slower=0.02)

    (result,) = judge_gate(baseline, candidate, TPOT)

    assert result.status == "undecided"
    assert "times as long a run would tell" in result.reason
    assert result.power < 0.9
    assert gate_exit_code([result]) == 3


def test_a_percentile_without_its_samples_is_undecided() -> None:
    baseline, candidate = simulated_pair(1, num_requests=100)

    (result,) = judge_gate(baseline, candidate, TPOT)

    assert result.reason == "100 pairs, 200 are needed"
    assert "UNDECIDED" in gate_table([result])


def test_failures_of_the_candidate_lower_goodput() -> None:
    baseline, candidate = simulated_pair(1)
    ok = tuple(i % 10 != 0 for i in range(1200))

    (result,) = judge_gate(baseline, changed(candidate, ok=ok), parse_gate("goodput:-3%"))

    assert result.status == "regression"
    assert result.ratio == pytest.approx(0.9, abs=0.01)
    assert gate_exit_code([result]) == 1


def test_a_slowserver_gives_less_throughput_in_a_closed_loop() -> None:
    """Though the requests that both runs got to have the same tokens."""
    baseline, candidate = simulated_pair(1, slower=0.25)
    closed = [msgspec.structs.replace(run, concurrency=8) for run in (baseline, candidate)]

    (result,) = judge_gate(closed[0], closed[1], parse_gate("throughput:-5%"))
    (of_arrivals,) = judge_gate(baseline, candidate, parse_gate("throughput:-5%"))

    assert result.status == "regression"
    assert result.ratio == pytest.approx(0.8, abs=0.01)
    assert of_arrivals.ratio == pytest.approx(1.0)
    assert result.baseline == pytest.approx(64 * 8 / (73 * 0.0203), rel=0.05)


def test_goodput_counts_what_meets_the_objectives() -> None:
    baseline, candidate = simulated_pair(1, slower=0.5)
    objectives = parse_objectives("tpot_p95<25ms")

    (result,) = judge_gate(baseline, candidate, parse_gate("goodput:-3%"), objectives=objectives)

    assert result.ratio < 0.5


def test_runs_of_another_stream_are_not_comparable() -> None:
    baseline, candidate = simulated_pair(1)
    other = changed(candidate, plan=(2,) * 1200)

    with pytest.raises(NotComparable, match="differ in seed"):
        judge_gate(baseline, other, TPOT)


def test_requests_are_paired_by_their_index_in_the_stream() -> None:
    baseline, candidate = simulated_pair(1, num_requests=50)
    backwards = changed(candidate, index=tuple(reversed(range(50))))

    assert pair(baseline.figures, backwards.figures).places[0] == (0, 49)
    with pytest.raises(NotComparable, match="0 requests in common"):
        pair(baseline.figures, changed(candidate, index=tuple(range(100, 150))).figures)


def test_pairing_takes_away_what_requests_have_in_common() -> None:
    baseline, candidate = simulated_pair(5, spread=1.0, noise=0.01, drift=0.0)

    paired = paired_ratio(baseline.figures.tpot, candidate.figures.tpot, mean, series=[0.0])  # type: ignore[arg-type]
    shuffled = sorted(candidate.figures.tpot)  # type: ignore[type-var]
    unpaired = paired_ratio(baseline.figures.tpot, shuffled, mean, series=[0.0])  # type: ignore[arg-type]

    assert paired.error < unpaired.error / 5


def test_blocks_are_long_where_neighbours_resemble_each_other() -> None:
    slow = [math.sin(i / 40) for i in range(1000)]
    quick = [((i * 7919) % 1000) / 1000 for i in range(1000)]

    assert block_length(slow) > 20
    assert block_length(quick) <= 5
    assert block_length([1.0] * 100) == 1


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
