"""The plan of an open loop: processes, rates, traces, slices and hashes."""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from lorry_loadtest.adapter_mix import Adapters, mix_of
from lorry_loadtest.arrivals import TraceArrivals, at_rate, parse_arrival
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.planned import stream_hash
from lorry_loadtest.prompts import RandomWords
from lorry_loadtest.rates import parse_rates, rates_of_shape
from lorry_loadtest.schedule import Schedule, closed_stream_hash, plan_schedule
from lorry_loadtest.traces import read_trace
from lorry_loadtest.workload import Workload

WORKLOAD = Workload(
    seed=7,
    adapters=mix_of(["a", "b"]),
    prompts=RandomWords(Lengths.const(4)),
    max_tokens=Lengths.const(8),
)


def times_of(text: str, until_s: float, *, seed: int = 7) -> list[float]:
    return list(parse_arrival(text).times_s(seed=seed, until_s=until_s))


def plan(text: str = "poisson:50", *, until_s: float = 4.0, seed: int = 7) -> Schedule:
    return plan_schedule(replace(WORKLOAD, seed=seed), parse_arrival(text), until_s=until_s)


def test_constant_arrivals_are_equally_far_apart() -> None:
    assert times_of("constant:4", 1.01) == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(("text", "cv"), [("poisson:20", 1.0), ("gamma:20:cv=3", 3.0)])
def test_a_process_has_its_rate_and_its_variation(text: str, cv: float) -> None:
    times = times_of(text, 1000.0)
    gaps = [b - a for a, b in pairwise(times)]

    assert len(times) == pytest.approx(20_000, rel=0.06)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(cv, rel=0.1)


def test_steps_and_ramps_bring_as_many_as_their_rates_say() -> None:
    steps = times_of("constant:2x10s,8x10s", 100)
    ramp = times_of("constant:0..10x10s", 100)

    assert [sum(t <= 10 for t in steps), len(steps)] == [20, 100]
    assert len(ramp) == 50
    assert sum(t <= 5 for t in ramp) == 12  # the area under the first half: 12.5


def test_the_rates_tell_the_users_of_a_closed_loop_too() -> None:
    rates = parse_rates("1..11x10s,5x2s")

    assert [rates.at(0), rates.at(5), rates.at(11), rates.at(12.5)] == [1, 6, 5, None]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("weekly:3", "is not constant:RATE"),
        ("poisson:", "is not a rate"),
        ("poisson:0", "brings nobody"),
        ("poisson:2,3", "needs its seconds"),
        ("poisson:1..4", "needs its seconds"),
        ("poisson:2x0s", "for 0 s"),
        ("poisson:2:cv=3", "means nothing for poisson"),
        ("gamma:2", "need :cv="),
        ("gamma:2:cv=0", "not > 0"),
    ],
)
def test_a_wrong_arrival_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_arrival(text)


def test_a_search_keeps_the_process_and_changes_its_rate() -> None:
    arrival = parse_arrival("gamma:2:cv=3")

    assert at_rate(arrival, 5.0) == parse_arrival("gamma:5:cv=3")
    assert at_rate(None, 5.0) == parse_arrival("poisson:5")


def test_the_same_seed_gives_the_same_stream_and_another_does_not() -> None:
    assert plan().stream_hash == plan().stream_hash
    assert plan().stream_hash != plan(seed=8).stream_hash
    assert plan().stream_hash != plan("poisson:51").stream_hash


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_together_send_the_same_stream(num_workers: int) -> None:
    schedule = plan()
    sent = [
        schedule.request_at(index)
        for worker in range(num_workers)
        for index in schedule.slice_of(worker, num_workers)
    ]

    sent.sort(key=lambda request: request.index)
    assert stream_hash(sent) == schedule.stream_hash


def test_the_stream_of_a_closed_loop_has_a_hash_without_times() -> None:
    assert closed_stream_hash(WORKLOAD) == closed_stream_hash(WORKLOAD)
    assert closed_stream_hash(WORKLOAD) != closed_stream_hash(replace(WORKLOAD, stream=1))


def test_a_plan_without_any_request_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no request arrives within 0\.1 s"):
        plan("constant:1", until_s=0.1)


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.109930+00:00,2399,6
"""
BURST_GPT = """Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type
5,s1,ChatGPT,472,18,490,Conversation log
45,s2,GPT-4,1087,230,1317,Conversation log
118,s1,GPT-4,417,0,417,Conversation log
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 1000, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30535, "input_length": 700, "output_length": 26, "hash_ids": [46, 99]}
"""


@pytest.mark.parametrize(
    ("text", "times", "lengths"),
    [
        (AZURE, [0, 4.314579], [(374, 44), (396, 109)]),
        (AZURE_2024, [0, 0.1], [(2162, 5), (2399, 6)]),
        (BURST_GPT, [0, 40], [(472, 18), (1087, 230)]),  # one failed: no answer
        (MOONCAKE, [0, 3.053], [(1000, 52), (700, 26)]),
    ],
)
def test_public_traces_are_read(
    text: str, times: list[float], lengths: list[tuple[int, int]], tmp_path: Path
) -> None:
    (tmp_path / "trace").write_text(text)

    requests = read_trace(tmp_path / "trace").requests

    assert [request.at_s for request in requests] == pytest.approx(times, abs=1e-5)
    assert [(r.num_prompt_tokens, r.num_output_tokens) for r in requests] == lengths


def replay(text: str, tmp_path: Path, suffix: str = "") -> Schedule:
    path = tmp_path / "trace"
    path.write_text(text)
    arrival = parse_arrival(f"trace:{path}{suffix}")
    assert isinstance(arrival, TraceArrivals)
    return plan_schedule(replace(WORKLOAD, trace=arrival.trace), arrival, until_s=1000)


def test_a_replay_has_the_traces_times_and_lengths(tmp_path: Path) -> None:
    schedule = replay(AZURE, tmp_path, ":0.5")
    second = schedule.request_at(1)

    assert schedule.times_ns[1] == pytest.approx(4.314579e9 / 2, abs=1e4)
    assert (second.num_prompt_words, second.max_tokens) == (396, 109)


def test_a_replay_may_be_made_smaller(tmp_path: Path) -> None:
    schedule = replay(AZURE, tmp_path)
    small = replace(schedule.workload, length_scale=0.1).request_at(0)

    assert (small.num_prompt_words, small.max_tokens) == (37, 4)


def test_equal_blocks_of_a_trace_become_equal_text(tmp_path: Path) -> None:
    first, second = replay(MOONCAKE, tmp_path).requests()

    assert first.prompt.split()[:512] == second.prompt.split()[:512]
    assert first.prompt.split()[512:600] != second.prompt.split()[512:600]
    assert (first.num_prompt_words, second.num_prompt_words) == (1000, 700)


def test_a_session_stays_with_one_adapter(tmp_path: Path) -> None:
    rows = [f"{k},s{k % 3},GPT-4,10,5,15,log" for k in range(60)]
    text = BURST_GPT.splitlines()[0] + "\n" + "\n".join(rows) + "\n"
    planned = list(replay(text, tmp_path).requests())

    for session in range(3):
        assert len({request.adapter for request in planned[session::3]}) == 1


def test_a_session_stays_with_its_adapter_while_the_hot_one_changes(tmp_path: Path) -> None:
    rows = [f"{k},s{k % 3},GPT-4,10,5,15,log" for k in range(60)]
    text = BURST_GPT.splitlines()[0] + "\n" + "\n".join(rows) + "\n"
    schedule = replay(text, tmp_path)
    mix = Adapters.zipf(["a", "b"], s=9.0, churn="rotate:1s")
    moving = replace(schedule, workload=replace(schedule.workload, adapters=mix))
    planned = list(moving.requests())

    sessions = [{request.adapter for request in planned[session::3]} for session in range(3)]
    assert all(len(adapters) == 1 for adapters in sessions)
    assert len(set.union(*sessions)) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,b\n1,2\n", "is none of Azure's"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,2\n", "line 2"),
        ('{"timestamp": 1}\n', "line 1"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no request"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(text)

    with pytest.raises(ValueError, match=complaint):
        read_trace(tmp_path / "trace")


class TwoSteps:
    """A load shape of locust's, by its two methods."""

    def get_run_time(self) -> float:
        raise AssertionError("the shape's own clock runs only during a test")

    def tick(self) -> tuple[int, float] | None:
        t_s = self.get_run_time()
        return None if t_s >= 3 else (2 if t_s < 2 else 10, 1.0)


def test_a_load_shape_can_be_read_as_rates_before_the_run() -> None:
    rates = rates_of_shape(TwoSteps())

    assert [rates.at(t) for t in (0, 1.5, 2.5, 3)] == [2, 2, 10, None]
    assert rates.time_of(14) == 3.0


def test_a_shape_that_never_ends_is_refused() -> None:
    shape = TwoSteps()
    shape.tick = lambda: (1, 1.0)  # type: ignore[method-assign]

    with pytest.raises(ValueError, match="does not end within a day"):
        rates_of_shape(shape)
