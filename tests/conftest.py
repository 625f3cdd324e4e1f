"""Fixtures that any test may ask for."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_compute_thread() -> None:
    """Tiny models lose more to the threads' meetings than they win by them."""
    torch.set_num_threads(1)
