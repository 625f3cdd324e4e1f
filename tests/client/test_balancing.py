"""Which server gets an attempt: the rules, without a network and with a clock of the test's."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import pytest

import lorry
from lorry.balancing import Balancer, EndpointState
from lorry.ejection import LONGEST_EJECTION_S, NUM_FAILURES, Ejection
from lorry.endpoints import Endpoint

REFUSED = lorry.ConnectError("no", refused=True)
ADAPTERS = [f"adapter-{number}" for number in range(2000)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def balancer(*urls: str, clock: Callable[[], float] = Clock()) -> Balancer:  # noqa: B008
    draws = itertools.cycle([0.1, 0.9, 0.4, 0.6])
    return Balancer(
        [Endpoint(f"http://{url}") for url in urls], clock=clock, random=lambda: next(draws)
    )


def fail(core: Balancer, state: EndpointState, times: int = NUM_FAILURES) -> None:
    for _ in range(times):
        core.begin(state).end(REFUSED)


def shares(endpoints: list[Endpoint]) -> Counter[str]:
    core = Balancer(endpoints)
    return Counter(core.choose(adapter).url for adapter in ADAPTERS)


def test_an_adapter_stays_with_its_server_in_whatever_order_the_servers_are_named() -> None:
    one, other = balancer("a", "b", "c"), balancer("c", "a", "b")

    assert all(one.choose(name).url == other.choose(name).url for name in ADAPTERS)


def test_adapters_are_spread_by_weight() -> None:
    even = shares([Endpoint("http://a"), Endpoint("http://b")])
    heavy = shares([Endpoint("http://a"), Endpoint("http://b", weight=3.0)])

    assert even["http://a"] / len(ADAPTERS) == pytest.approx(1 / 2, abs=0.05)
    assert heavy["http://b"] / len(ADAPTERS) == pytest.approx(3 / 4, abs=0.05)


def test_a_server_that_is_taken_away_moves_its_own_adapters_only() -> None:
    before, after = balancer("a", "b", "c"), balancer("a", "b")
    stayed = [name for name in ADAPTERS if before.choose(name).url != "http://c"]

    assert len(stayed) < len(ADAPTERS)
    assert all(before.choose(name).url == after.choose(name).url for name in stayed)


def test_the_base_model_goes_to_the_less_busy_of_two() -> None:
    core = balancer("a", "b")
    core.begin(core.states[0])

    assert {core.choose(None).url for _ in range(4)} == {"http://b"}


def test_a_server_of_twice_the_weight_may_be_twice_as_busy() -> None:
    core = Balancer([Endpoint("http://a", weight=2.0), Endpoint("http://b")], random=lambda: 0.0)
    for state in (core.states[0], core.states[0], core.states[0], core.states[1]):
        core.begin(state)

    assert core.choose(None).url == "http://b"
    core.begin(core.states[1])
    assert core.choose(None).url == "http://a"


def test_a_favourite_that_is_much_busier_than_the_rest_is_left_alone() -> None:
    core = balancer("a", "b", "c")
    favourite = core.choose("pirate")
    for _ in range(8):
        core.begin(favourite)
    kept = core.choose("pirate")
    core.begin(favourite)
    left = core.choose("pirate")

    assert kept is favourite
    assert left is not favourite


def test_a_busy_favourite_is_kept_while_the_others_are_as_busy() -> None:
    core = balancer("a", "b", "c")
    for state in core.states:
        for _ in range(50):
            core.begin(state)

    assert core.choose("pirate") is balancer_favourite(core, "pirate")


def balancer_favourite(core: Balancer, adapter: str) -> EndpointState:
    url = Balancer([state.endpoint for state in core.states]).choose(adapter).url
    return next(state for state in core.states if state.url == url)


def test_adapters_of_an_ejected_server_move_together_to_their_next_choice() -> None:
    core = balancer("a", "b", "c")
    favourite = core.choose("pirate")
    fail(core, favourite)

    chosen = {core.choose("pirate").url for _ in range(10)}

    assert len(chosen) == 1
    assert favourite.url not in chosen


def test_a_retry_goes_to_a_server_that_was_not_tried() -> None:
    core = balancer("a", "b", "c")
    first = core.choose("pirate")
    second = core.choose("pirate", tried=[first])
    third = core.choose("pirate", tried=[first, second])

    assert len({first.url, second.url, third.url}) == 3
    assert core.choose("pirate", tried=[first, second, third]) is first


def test_a_tried_server_is_better_than_an_ejected_one() -> None:
    core = balancer("a", "b")
    fail(core, core.states[0])

    assert core.choose(None, tried=[core.states[1]]) is core.states[1]


def test_failures_that_a_success_comes_between_eject_nobody() -> None:
    core = balancer("a", "b")
    fail(core, core.states[0], NUM_FAILURES - 1)
    core.begin(core.states[0]).end(None)
    fail(core, core.states[0], NUM_FAILURES - 1)

    assert not core.stats()[0].is_ejected


def test_the_last_server_is_never_ejected() -> None:
    core = balancer("a", "b")
    for state in core.states:
        fail(core, state, 3 * NUM_FAILURES)

    assert [record.is_ejected for record in core.stats()] == [True, False]


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (lorry.ConnectError("name not known"), True),
        (lorry.ConnectionLost("reset"), True),
        (lorry.StreamTruncated("cut"), True),
        (lorry.ServerError("broken", status=500), True),
        (lorry.Overloaded("draining", status=503), True),
        (lorry.DeadlineExceeded("no connection", phase="connect"), True),
        (lorry.DeadlineExceeded("silent", phase="first_token"), True),
        (lorry.DeadlineExceeded("long text", phase="total"), False),
        (lorry.AdapterLoading("soon", status=503), False),
        (lorry.Overloaded("your key", status=429), False),
        (lorry.BadRequest("top_p", status=400), False),
        (lorry.StreamCancelled("enough"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_speaks_against_a_server(error: BaseException, counts: bool) -> None:
    core = balancer("a", "b")
    for _ in range(NUM_FAILURES):
        core.begin(core.states[0]).end(error)

    assert core.stats()[0].is_ejected is counts


def test_an_ejected_server_comes_back_for_one_request_and_then_for_all() -> None:
    clock = Clock()
    core = balancer("a", "b", clock=clock)
    a = core.states[0]
    fail(core, a)
    for _ in range(5):
        core.begin(core.states[1])
    while_out = core.choose(None)
    clock.now += 1.0
    probed = core.choose(None)
    probe = core.begin(a)
    meanwhile = core.choose(None)
    probe.end(None)
    afterwards = core.choose(None)

    assert [state.url[-1] for state in (while_out, probed, meanwhile, afterwards)] == [*"baba"]


def test_an_ejection_lasts_twice_as_long_each_time_up_to_a_minute() -> None:
    ejection, now, lengths = Ejection(), 0.0, []
    for _ in range(NUM_FAILURES - 1):
        assert not ejection.failed(now)
    for _ in range(8):
        assert ejection.failed(now)
        ejection.eject(now)
        began = now
        while ejection.is_out(now):
            now += 0.5
        lengths.append(now - began)

    assert lengths == [1, 2, 4, 8, 16, 32, 60, LONGEST_EJECTION_S]


def test_what_was_under_way_when_a_server_was_ejected_changes_nothing() -> None:
    core = balancer("a", "b")
    late = [core.begin(core.states[0]), core.begin(core.states[0])]
    fail(core, core.states[0])
    late[0].end(None)
    late[1].end(REFUSED)

    assert core.stats()[0].is_ejected


def test_a_visit_ends_once() -> None:
    core = balancer("a", "b")
    visit = core.begin(core.states[0])
    visit.end(REFUSED, answer_took_s=None)
    visit.end(None, answer_took_s=1.0)

    assert core.stats()[0].num_in_flight == 0
    assert core.stats()[0].num_failures == 1
    assert core.stats()[0].answer_takes_s is None


def test_the_time_an_answer_takes_is_smoothed() -> None:
    core = balancer("a")
    core.begin(core.states[0]).end(None, answer_took_s=1.0)
    core.begin(core.states[0]).end(None, answer_took_s=2.0)

    assert core.stats()[0].answer_takes_s == pytest.approx(1.125)
