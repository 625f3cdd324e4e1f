from __future__ import annotations

import random

import pytest

from lorry_server.lora.names import check_adapter_name
from lorry_server.lora.slots import AdapterSlots, RowRange


def test_adapters_get_exactly_their_own_rank() -> None:
    slots = AdapterSlots(20)

    assert slots.place("a", rank=16) == RowRange(0, 16)
    assert slots.place("b", rank=4) == RowRange(16, 4)
    assert slots.place("c", rank=1) is None
    assert slots.num_free_rows == 0


def test_the_first_gap_that_is_long_enough_is_taken() -> None:
    slots = AdapterSlots(12)
    for digest in "abc":
        slots.place(digest, rank=4)
    slots.remove("b")

    assert slots.place("d", rank=5) is None
    assert slots.place("e", rank=3) == RowRange(4, 3)


def test_pins_are_counted_and_protect_an_adapter() -> None:
    slots = AdapterSlots(4)
    slots.place("a", rank=4)
    slots.pin("a")
    slots.pin("a")

    assert slots.num_pins == 2
    with pytest.raises(AssertionError):
        slots.remove("a")
    slots.unpin("a")
    slots.unpin("a")
    slots.remove("a")
    assert "a" not in slots


def test_ranges_never_overlap() -> None:
    rng = random.Random(1)
    slots = AdapterSlots(64)
    held: dict[str, RowRange] = {}
    for step in range(500):
        if held and rng.random() < 0.4:
            digest = rng.choice(sorted(held))
            slots.remove(digest)
            del held[digest]
        else:
            placed = slots.place(str(step), rank=rng.randint(1, 16))
            if placed is not None:
                held[str(step)] = placed
        rows = [row for r in held.values() for row in range(r.start, r.start + r.rank)]
        assert len(rows) == len(set(rows))
        assert all(0 <= row < 64 for row in rows)


@pytest.mark.parametrize("name", ["sql", "a.b-c_d", "team/sql", "A" * 96])
def test_good_names_are_taken(name: str) -> None:
    assert check_adapter_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "-x", "../x", "/x", "a/b/c", "a//b", "a\n", "é", "A" * 97, "~/x", "a\\b"],
)
def test_names_that_could_be_a_path_or_break_a_header_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        check_adapter_name(name)
