"""The order of examples is a function of seed and step; padding is never learned."""

from __future__ import annotations

import pytest
import torch

from lorry_server.finetune.batches import BatchOrder, make_batch, split_lines
from lorry_server.finetune.encoding import Example

CPU = torch.device("cpu")


def test_each_pass_has_every_example_once_in_an_order_of_its_own() -> None:
    order = BatchOrder(10, batch_size=4, seed=1)

    passes = [
        [index for step in range(start, start + order.steps_per_epoch) for index in order.at(step)]
        for start in (0, 3, 6)
    ]

    assert order.steps_per_epoch == 3
    assert [sorted(one) for one in passes] == [list(range(10))] * 3
    assert len({tuple(one) for one in passes}) == 3
    assert [len(order.at(step)) for step in range(3)] == [4, 4, 2]


def test_a_step_has_the_same_examples_whatever_was_asked_before() -> None:
    first, second = (BatchOrder(10, batch_size=3, seed=5) for _ in range(2))
    in_turn = [first.at(step) for step in range(12)]

    assert [second.at(step) for step in reversed(range(12))] == in_turn[::-1]
    assert [BatchOrder(10, batch_size=3, seed=6).at(step) for step in range(12)] != in_turn


def test_batch_pads_on_the_right_and_learns_from_the_completion_on() -> None:
    batch = make_batch([Example((5, 6, 7, 8), 2), Example((9, 3), 0)], device=CPU)

    assert batch.ids_BT.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
    assert batch.attended_BT.tolist() == [[True] * 4, [True, True, False, False]]
    # nothing foretells the first token of a sequence
    assert batch.learned_BT.tolist() == [[False, False, True, True], [False, True, False, False]]


@pytest.mark.parametrize(
    ("share", "num_held_out"), [(0.0, 0), (0.01, 1), (0.25, 2), (0.5, 4), (0.9, 7)]
)
def test_whole_lines_are_held_out_and_at_least_one_is_learned(
    share: float, num_held_out: int
) -> None:
    lines = [(Example((line, 0), 0), Example((line, 1), 0)) for line in range(8)]

    learned, held_out = split_lines(lines, eval_split=share, seed=0)

    assert len(held_out) == 2 * num_held_out
    assert sorted(e.token_ids for e in [*learned, *held_out]) == sorted(
        e.token_ids for line in lines for e in line
    )
    assert not {e.token_ids[0] for e in learned} & {e.token_ids[0] for e in held_out}
    assert split_lines(lines, eval_split=share, seed=0) == (learned, held_out)


def test_the_only_line_is_learned() -> None:
    line = (Example((1, 2), 0),)

    assert split_lines([line], eval_split=0.5, seed=0) == (list(line), [])
