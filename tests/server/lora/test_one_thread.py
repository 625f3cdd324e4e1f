"""Work on adapters leaves torch's threads to others, and gives its own back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lorry_server.lora.one_thread import on_one_thread


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_torch_computes_alone_inside_and_as_before_outside() -> None:
    with on_one_thread():
        assert torch.get_num_threads() == 1

    assert torch.get_num_threads() == 2


def test_an_error_gives_the_threads_back() -> None:
    with pytest.raises(ValueError, match="x"), on_one_thread():
        raise ValueError("x")

    assert torch.get_num_threads() == 2


def test_two_that_overlap_leave_it_as_it_was() -> None:
    first, second = on_one_thread(), on_one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)

    assert torch.get_num_threads() == 2
