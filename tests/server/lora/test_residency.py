"""Which adapters are on the device: bytes, pins, who leaves first, and what is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorry_server.lora.residency import Residency
from tests.support.fake_adapters import FakeAdapters, fake_prepared

SIZES = {"a": 10, "b": 20, "c": 30, "d": 40, "e": 70}


def make_residency(
    budget_bytes: int = 60, *, max_slots: int = 8, known: str = "abcd"
) -> tuple[Residency, FakeAdapters]:
    device = FakeAdapters()
    residency = Residency(device, budget_bytes=budget_bytes, max_slots=max_slots)
    for digest in known:
        residency.offer(fake_prepared(digest, num_bytes=SIZES[digest]))
    return residency, device


def use(residency: Residency, digest: str) -> None:
    assert residency.acquire(digest)
    residency.release(digest)


def attached(device: FakeAdapters) -> set[str]:
    return {prepared.digest for prepared in device.attached.values()}


def test_an_adapter_that_is_only_known_is_not_on_the_device() -> None:
    residency, device = make_residency()

    assert residency.is_known("a")
    assert not residency.is_resident("a")
    assert device.attached == {}
    with pytest.raises(KeyError):
        residency.slot("a")


def test_an_adapter_takes_its_own_bytes_and_one_slot() -> None:
    residency, device = make_residency()

    assert residency.acquire("c")
    assert residency.acquire("b")

    assert residency.resident_bytes == 50
    assert residency.resident_digests == ("c", "b")
    assert {slot: one.digest for slot, one in device.attached.items()} == {
        residency.slot("c"): "c",
        residency.slot("b"): "b",
    }


def test_the_least_recently_used_makes_room() -> None:
    residency, _ = make_residency()
    for digest in "abca":  # b is the oldest now
        use(residency, digest)

    use(residency, "b")  # of use again; then c is
    assert residency.acquire("d")

    assert set(residency.resident_digests) == {"b", "d"}
    assert residency.resident_bytes == 60
    assert residency.counters.evictions == 2


def test_a_pinned_adapter_is_never_detached() -> None:
    residency, _ = make_residency()
    assert residency.acquire("c")

    assert not residency.acquire("d")

    assert residency.resident_digests == ("c",)
    assert residency.num_pins == 1
    residency.release("c")
    assert residency.acquire("d")
    assert residency.resident_digests == ("d",)


def test_what_finds_no_room_drives_nobody_away() -> None:
    residency, _ = make_residency()
    use(residency, "a")
    assert residency.acquire("c")

    assert not residency.acquire("d")

    assert residency.resident_digests == ("a", "c")
    assert residency.counters.evictions == 0


def test_slots_are_a_limit_as_bytes_are() -> None:
    residency, _ = make_residency(max_slots=2)
    use(residency, "a")
    assert residency.acquire("b")
    assert residency.acquire("c")  # takes the place of a

    assert not residency.is_resident("a")
    assert not residency.acquire("a")


def test_a_slot_is_used_again() -> None:
    residency, device = make_residency(max_slots=1)
    use(residency, "a")

    assert residency.acquire("b")

    assert residency.slot("b") == 0
    assert device.attached[0].digest == "b"


def test_each_user_is_a_pin_of_its_own() -> None:
    residency, _ = make_residency()
    assert residency.acquire("c")
    assert residency.acquire("c")
    residency.release("c")

    assert not residency.acquire("d")
    residency.release("c")
    assert residency.acquire("d")
    assert residency.counters.hits == 1
    assert residency.counters.attaches == 2


def test_withdrawing_an_idle_adapter_detaches_it() -> None:
    residency, device = make_residency()
    use(residency, "a")

    residency.withdraw("a")
    residency.withdraw("a")

    assert device.attached == {}
    assert residency.counters.evictions == 0
    with pytest.raises(KeyError):
        residency.acquire("a")


def test_withdrawing_a_pinned_adapter_detaches_it_with_its_last_release() -> None:
    residency, device = make_residency()
    assert residency.acquire("a")
    assert residency.acquire("a")

    residency.withdraw("a")
    residency.release("a")
    assert attached(device) == {"a"}
    residency.release("a")

    assert device.attached == {}
    assert residency.resident_bytes == 0


def test_an_adapter_that_is_offered_again_while_it_is_pinned_stays() -> None:
    residency, device = make_residency()
    assert residency.acquire("a")
    residency.withdraw("a")

    residency.offer(fake_prepared("a", num_bytes=10))
    residency.release("a")

    assert attached(device) == {"a"}
    assert residency.acquire("a")
    assert residency.counters.attaches == 1


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "withdraw", "acquire", "acquire", "release", "release"]),
        st.sampled_from(sorted(SIZES)),
    ),
    max_size=120,
)


@given(
    operations=OPERATIONS,
    budget_bytes=st.integers(min_value=70, max_value=180),
    max_slots=st.integers(min_value=1, max_value=5),
)
def test_any_order_of_calls_keeps_bytes_pins_and_slots_right(
    operations: list[tuple[str, str]], budget_bytes: int, max_slots: int
) -> None:
    """Beside a count of pins, which is all that the outside knows."""
    residency, device = make_residency(budget_bytes, max_slots=max_slots, known="")
    pins = dict.fromkeys(SIZES, 0)
    known: set[str] = set()
    acquired = 0
    for operation, digest in operations:
        if operation == "offer":
            residency.offer(fake_prepared(digest, num_bytes=SIZES[digest]))
            known.add(digest)
        elif operation == "withdraw":
            residency.withdraw(digest)
            known.discard(digest)
        elif operation == "acquire" and digest in known:
            others = {other for other, count in pins.items() if count and other != digest}
            has_room = SIZES[digest] + sum(SIZES[other] for other in others) <= budget_bytes
            has_slot = len(others) < max_slots
            is_taken = residency.acquire(digest)
            assert is_taken == (has_room and has_slot)
            pins[digest] += is_taken
            acquired += is_taken
        elif operation == "release" and pins[digest]:
            residency.release(digest)
            pins[digest] -= 1

        residency.check_integrity()
        pinned = {digest for digest, count in pins.items() if count}
        assert attached(device) == set(residency.resident_digests)
        assert pinned <= attached(device) <= known | pinned
        assert residency.resident_bytes == sum(SIZES[digest] for digest in attached(device))
        assert residency.resident_bytes <= budget_bytes
        assert residency.num_pins == sum(pins.values())
        assert residency.num_resident == len(device.attached) <= max_slots
    counters = residency.counters
    assert counters.hits + counters.attaches == acquired
