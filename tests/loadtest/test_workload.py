from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from lorry_loadtest.adapter_mix import AdapterMix, Adapters, mix_of, parse_adapters, parse_mix
from lorry_loadtest.arrivals import parse_arrival
from lorry_loadtest.canaries import canaries_for
from lorry_loadtest.lengths import Lengths, parse_lengths
from lorry_loadtest.planned import PlannedRequest, stream_hash
from lorry_loadtest.prompts import FixedPrompts, Prompts, RandomWords
from lorry_loadtest.schedule import plan_schedule
from lorry_loadtest.workload import Variant, Workload


def make_workload(*, seed: int = 7) -> Workload:
    return Workload(
        seed=seed,
        adapters=mix_of({"a": 3.0, "b": 1.0}, base_share=0.2),
        prompts=RandomWords(Lengths(8, 16)),
        max_tokens=Lengths(16, 96),
    )


def requests_of(workload: Workload, count: int) -> list[PlannedRequest]:
    return [workload.request_at(index) for index in range(count)]


def test_same_seed_and_index_give_the_same_request() -> None:
    first = [make_workload().request_at(index) for index in range(20)]
    again = [make_workload().request_at(index) for index in reversed(range(20))]

    assert first == again[::-1]


def test_requests_do_not_change_between_versions() -> None:
    """A stored result can only be repeated when its seed keeps its meaning."""
    planned = make_workload().request_at(0)

    assert (planned.adapter, planned.max_tokens) == ("a", 90)
    assert planned.prompt_hash == "3a587cae6599cec2"


def test_seed_stream_and_index_each_change_the_prompt() -> None:
    workload = make_workload()
    prompts = {
        workload.request_at(0).prompt,
        workload.request_at(1).prompt,
        replace(workload, stream=1).request_at(0).prompt,
        make_workload(seed=8).request_at(0).prompt,
    }

    assert len(prompts) == 4


def test_two_user_classes_send_other_requests_at_other_times() -> None:
    first, second = make_workload(), replace(make_workload(), source=1)
    arrival = parse_arrival("poisson:5")

    assert first.request_at(0).prompt != second.request_at(0).prompt
    times = [plan_schedule(w, arrival, until_s=10).times_ns for w in (first, second)]
    assert not set(times[0]) & set(times[1])
    assert plan_schedule(replace(first, stream=3), arrival, until_s=10).times_ns == times[0]


def test_adapters_appear_with_their_shares() -> None:
    drawn = [planned.adapter for planned in requests_of(make_workload(), 4000)]

    assert drawn.count("a") / 4000 == pytest.approx(0.6, abs=0.03)
    assert drawn.count("b") / 4000 == pytest.approx(0.2, abs=0.03)
    assert drawn.count(None) / 4000 == pytest.approx(0.2, abs=0.03)


def test_lengths_stay_inside_their_range_and_reach_its_ends() -> None:
    planned = requests_of(make_workload(), 1000)

    assert {min(p.max_tokens for p in planned), max(p.max_tokens for p in planned)} == {16, 96}
    assert {len(p.prompt.split()) for p in planned} == set(range(8, 17))


@pytest.mark.parametrize(
    ("lengths", "mean"),
    [
        (Lengths.const(40), 40),
        (Lengths.uniform(10, 70), 40),
        (Lengths.normal(mean=100, sd=10, lo=1, hi=200), 100),
        (Lengths.lognormal(mean=100, sigma=0.5, lo=1, hi=10_000), 100),
    ],
)
def test_a_distribution_has_its_mean_and_its_text_reads_back(lengths: Lengths, mean: float) -> None:
    rng = Random(1)
    drawn = [lengths.draw(rng) for _ in range(4000)]

    assert sum(drawn) / 4000 == pytest.approx(mean, rel=0.03)
    assert parse_lengths(str(lengths)) == lengths


def test_a_distribution_stays_between_its_bounds() -> None:
    lengths = Lengths.lognormal(mean=64, sigma=1.5, lo=32, hi=128)
    drawn = {lengths.draw(Random(seed)) for seed in range(1000)}

    assert min(drawn) >= 32
    assert max(drawn) <= 128


def test_without_adapters_every_request_goes_to_the_base_model() -> None:
    assert mix_of([]).names == (None,)
    assert mix_of({}, base_share=0.5).names == (None,)
    assert mix_of(["a"], base_share=1.0).names == (None,)


def test_shares_are_those_that_were_asked_for() -> None:
    mix = mix_of(parse_adapters("a=3, b=1"), base_share=0.2)

    assert mix.share_of("a") == pytest.approx(0.6)
    assert mix.share_of(None) == pytest.approx(0.2)
    assert mix.share_of("unknown") == 0.0


def draws(mix: AdapterMix, count: int, *, at_ns: int | None = None) -> Counter[str | None]:
    return Counter(mix.draw(Random(i), index=i, at_ns=at_ns) for i in range(count))


def test_zipf_gives_the_second_half_as_much_as_the_first() -> None:
    drawn = draws(Adapters.zipf(["a", "b", "c", "d"], s=1.0), 8000)

    assert drawn["b"] / drawn["a"] == pytest.approx(1 / 2, abs=0.05)
    assert drawn["d"] / drawn["a"] == pytest.approx(1 / 4, abs=0.05)


def test_churn_moves_the_weights_to_the_next_names() -> None:
    mix = Adapters.zipf(["a", "b", "c"], s=4.0, churn="rotate:30s")

    assert draws(mix, 300, at_ns=0).most_common(1)[0][0] == "a"
    assert draws(mix, 300, at_ns=31_000_000_000).most_common(1)[0][0] == "b"
    assert draws(mix, 300, at_ns=61_000_000_000).most_common(1)[0][0] == "c"


def test_churn_by_requests_needs_no_clock_and_churn_by_seconds_does() -> None:
    mix = Adapters.zipf(["a", "b"], s=9.0, churn="rotate:100")

    assert mix.draw(Random(0), index=99) == "a"
    assert mix.draw(Random(0), index=100) == "b"
    with pytest.raises(ValueError, match="a closed loop cannot rotate every 30s"):
        Adapters.zipf(["a"], churn="rotate:30s").draw(Random(0), index=0)


def test_a_noisy_neighbour_asks_ten_times_as_often() -> None:
    mix = parse_mix("noisy:b:10", ["a", "b", "c"])

    assert mix.share_of("b") == pytest.approx(10 / 12)
    assert mix.share_of("a") == pytest.approx(1 / 12)


def test_cold_adapters_come_in_turn_and_evenly_spread() -> None:
    mix = parse_mix("cold:0.1:1", ["warm", "x", "y", "z"])
    drawn = [mix.draw(Random(i), index=i) for i in range(60)]

    assert [name for name in drawn if name != "warm"] == ["x", "y", "z", "x", "y", "z"]
    assert mix.share_of("x") == pytest.approx(0.1 / 3)
    assert mix.share_of("warm") == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a,,b", "empty adapter name"), ("a=x", "'x' is not a weight"), ("a,a", "given twice")],
)
def test_a_wrong_adapter_list_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_adapters(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("zipf", "is not uniform, zipf:S"),
        ("zipf:x", "could not convert"),
        ("zipf:1:spin:3", "is not rotate:30s"),
        ("zipf:1:rotate:0s", "not > 0"),
        ("noisy:q:10", "'q' is not one of"),
        ("cold:0.1:2", "at least one cold adapter"),
    ],
)
def test_a_wrong_mix_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_mix(text, ["a", "b"])


def test_weights_and_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="weight of a is 0"):
        mix_of({"a": 0.0})
    with pytest.raises(ValueError, match=r"base share is 1\.5"):
        mix_of(["a"], base_share=1.5)


def test_lengths_are_one_number_or_a_range() -> None:
    assert parse_lengths("64") == Lengths(64, 64)
    assert parse_lengths("16:96") == Lengths(16, 96)


@pytest.mark.parametrize(
    "text",
    ["", "x", "9:3", "0", "1:2:3", "normal:5:1:8:9", "lognormal:8:0:4:9", "cauchy:1:1:1:1"],
)
def test_a_wrong_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a length"):
        parse_lengths(text)


def test_an_empty_list_of_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        FixedPrompts(())


def test_requests_of_a_group_share_their_prefix_and_nothing_else() -> None:
    prompts = Prompts.shared_prefix(prefix=20, unique=5, groups=2)
    workload = replace(make_workload(), prompts=prompts)
    texts = [planned.prompt.split() for planned in requests_of(workload, 40)]

    assert {len(text) for text in texts} == {25}
    assert len({tuple(text[:20]) for text in texts}) == 2
    assert len({tuple(text[20:]) for text in texts}) == 40


def test_a_later_turn_brings_the_conversation_so_far() -> None:
    prompts = Prompts.multi_turn(turns=3, words=4, answer_words=6, sessions=2)
    planned = requests_of(replace(make_workload(), prompts=prompts), 8)
    first, second, third = planned[0], planned[2], planned[4]

    assert first.history == ()
    assert second.history[0] == first.prompt
    assert third.history[:2] == second.history
    assert third.history[2] == second.prompt
    assert third.num_prompt_words == 2 * (4 + 6) + 4
    assert planned[6].history == ()  # the next conversation on the same seat
    assert planned[6].prompt != first.prompt


def conversations_of(workload: Workload, count: int, *, turns: int) -> list[list[PlannedRequest]]:
    """The turns of each whole conversation, told apart by their first user turn."""
    found: dict[str, list[PlannedRequest]] = {}
    for planned in requests_of(workload, count):
        found.setdefault((*planned.history, planned.prompt)[0], []).append(planned)
    return [planned for planned in found.values() if len(planned) == turns]


TALKS = Prompts.multi_turn(turns=4, words=6, sessions=8)


def test_a_conversation_belongs_to_one_adapter() -> None:
    talks = conversations_of(replace(make_workload(), prompts=TALKS), 640, turns=4)
    adapters = [{turn.adapter for turn in talk} for talk in talks]

    assert len(talks) == 160
    assert all(len(names) == 1 for names in adapters)
    assert adapters.count({"a"}) / 160 == pytest.approx(0.6, abs=0.1)
    assert {None} in adapters


def test_a_conversation_of_one_kind_among_others_belongs_to_one_adapter_too() -> None:
    kinds = (
        Variant(0.5, TALKS, Lengths.const(16)),
        Variant(0.5, Prompts.random(4), Lengths.const(16)),
    )
    workload = replace(make_workload(), variants=kinds)
    by_talk: dict[int, set[str | None]] = {}
    for planned in requests_of(workload, 640):
        if len((*planned.history, planned.prompt)[0].split()) == 6:
            by_talk.setdefault(TALKS.conversation_at(planned.index).number, set()).add(
                planned.adapter
            )

    assert len(by_talk) > 100
    assert all(len(names) == 1 for names in by_talk.values())


def test_a_conversation_keeps_its_adapter_when_the_hot_one_changes_in_the_middle() -> None:
    mix = Adapters.zipf(["a", "b"], s=9.0, churn="rotate:1.5s")
    workload = replace(make_workload(), prompts=TALKS, adapters=mix)
    schedule = plan_schedule(workload, parse_arrival("constant:16"), until_s=20.01)
    planned = list(schedule.requests())
    talks = [planned[first : first + 32 : 8] for first in range(0, 320, 32)]

    assert all(len({turn.adapter for turn in talk}) == 1 for talk in talks)
    assert {talk[0].adapter for talk in talks} == {"a", "b"}
    assert (talks[0][0].at_ns or 0) < 1.5e9 < (talks[0][3].at_ns or 0)


def test_cold_adapters_have_their_share_of_conversations() -> None:
    """Whatever the places at which conversations begin: every one of these is a multiple of 32."""
    mix = parse_mix("cold:0.03125:1", ["warm", "x"])
    talks = Prompts.multi_turn(turns=32, words=4, sessions=1)
    planned = requests_of(replace(make_workload(), prompts=talks, adapters=mix), 32 * 64)

    assert sum(request.adapter == "x" for request in planned) == 2 * 32


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_together_send_the_same_conversations(num_workers: int) -> None:
    workload = replace(make_workload(), prompts=TALKS)
    schedule = plan_schedule(workload, parse_arrival("poisson:50"), until_s=4.0)
    sent = [
        schedule.request_at(index)
        for worker in range(num_workers)
        for index in schedule.slice_of(worker, num_workers)
    ]

    sent.sort(key=lambda request: request.index)
    assert stream_hash(sent) == schedule.stream_hash
    assert plan_schedule(workload, parse_arrival("poisson:50"), until_s=4.0).stream_hash == (
        schedule.stream_hash
    )


def test_kinds_of_request_come_with_their_shares() -> None:
    short = Variant(0.8, Prompts.random(4), Lengths.const(16))
    long = Variant(0.2, Prompts.random(40), Lengths.const(256))
    planned = requests_of(replace(make_workload(), variants=(short, long)), 2000)

    assert {(p.num_prompt_words, p.max_tokens) for p in planned} == {(4, 16), (40, 256)}
    assert sum(p.max_tokens == 256 for p in planned) / 2000 == pytest.approx(0.2, abs=0.03)


def test_canaries_are_spread_evenly_and_repeat_their_prompts() -> None:
    canaries = canaries_for(["a", None], seed=1)
    workload = replace(make_workload(), canaries=canaries, canary_share=0.1)
    asked = [planned for planned in requests_of(workload, 100) if planned.canary]

    assert len(asked) == 10
    assert [planned.canary for planned in asked[:5]] == ["a/0", "base/0", "a/1", "base/1", "a/0"]
    assert asked[0].prompt == asked[1].prompt  # the same question for every adapter
    assert asked[0].prompt_hash == asked[4].prompt_hash


def test_users_leave_after_an_exponential_time() -> None:
    workload = replace(make_workload(), patience_s=4.0)
    waits = [planned.patience_s or 0.0 for planned in requests_of(workload, 4000)]

    assert sum(waits) / 4000 == pytest.approx(4.0, rel=0.06)
