from __future__ import annotations

import pytest

from lorry_loadtest.adapter_mix import mix_of, parse_adapters
from lorry_loadtest.lengths import Lengths, parse_lengths
from lorry_loadtest.prompts import FixedPrompts, RandomWords
from lorry_loadtest.workload import Place, Workload


def make_workload(*, seed: int = 7) -> Workload:
    return Workload(
        seed=seed,
        adapters=mix_of({"a": 3.0, "b": 1.0}, base_share=0.2),
        prompts=RandomWords(Lengths(8, 16)),
        max_tokens=Lengths(16, 96),
    )


def test_same_seed_and_place_give_the_same_request() -> None:
    places = [Place(4, 0, user, request) for user in range(4) for request in range(5)]

    first = [make_workload().request_at(place) for place in places]
    again = [make_workload().request_at(place) for place in reversed(places)]

    assert first == again[::-1]


def test_requests_do_not_change_between_versions() -> None:
    """A stored result can only be repeated when its seed keeps its meaning."""
    planned = make_workload().request_at(Place(1, 0, 0, 0))

    assert (planned.adapter, planned.max_tokens) == ("a", 50)


def test_seed_level_user_and_request_each_change_the_prompt() -> None:
    workload = make_workload()
    prompts = {
        workload.request_at(Place(1, 0, 0, 0)).prompt,
        workload.request_at(Place(2, 0, 0, 0)).prompt,
        workload.request_at(Place(1, 1, 0, 0)).prompt,
        workload.request_at(Place(1, 0, 1, 0)).prompt,
        workload.request_at(Place(1, 0, 0, 1)).prompt,
        make_workload(seed=8).request_at(Place(1, 0, 0, 0)).prompt,
    }

    assert len(prompts) == 6


def test_adapters_appear_with_their_shares() -> None:
    workload = make_workload()
    drawn = [workload.request_at(Place(1, 0, user, 0)).adapter for user in range(4000)]

    assert drawn.count("a") / 4000 == pytest.approx(0.6, abs=0.03)
    assert drawn.count("b") / 4000 == pytest.approx(0.2, abs=0.03)
    assert drawn.count(None) / 4000 == pytest.approx(0.2, abs=0.03)


def test_lengths_stay_inside_their_range_and_reach_its_ends() -> None:
    workload = make_workload()
    planned = [workload.request_at(Place(1, 0, 0, request)) for request in range(1000)]

    assert {min(p.max_tokens for p in planned), max(p.max_tokens for p in planned)} == {16, 96}
    assert {len(p.prompt.split()) for p in planned} == set(range(8, 17))


def test_without_adapters_every_request_goes_to_the_base_model() -> None:
    assert mix_of([]).names == (None,)
    assert mix_of({}, base_share=0.5).names == (None,)
    assert mix_of(["a"], base_share=1.0).names == (None,)


def test_shares_are_those_that_were_asked_for() -> None:
    mix = mix_of(parse_adapters("a=3, b=1"), base_share=0.2)

    assert mix.share_of("a") == pytest.approx(0.6)
    assert mix.share_of(None) == pytest.approx(0.2)
    assert mix.share_of("unknown") == 0.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a,,b", "empty adapter name"), ("a=x", "'x' is not a weight"), ("a,a", "given twice")],
)
def test_a_wrong_adapter_list_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_adapters(text)


def test_weights_and_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="weight of a is 0"):
        mix_of({"a": 0.0})
    with pytest.raises(ValueError, match=r"base share is 1\.5"):
        mix_of(["a"], base_share=1.5)


def test_lengths_are_one_number_or_a_range() -> None:
    assert parse_lengths("64") == Lengths(64, 64)
    assert parse_lengths("16:96") == Lengths(16, 96)


@pytest.mark.parametrize("text", ["", "x", "9:3", "0", "1:2:3"])
def test_a_wrong_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a length"):
        parse_lengths(text)


def test_an_empty_list_of_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        FixedPrompts(())
