"""Fixtures that any test may ask for, and the event loop of those that have one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import torch

from tests.support.patient_loop import PatientLoop


@pytest.fixture(scope="session", autouse=True)
def one_compute_thread() -> None:
    """Tiny models lose more to the threads' meetings than they win by them."""
    torch.set_num_threads(1)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A limit of time is of a test's own seconds, not of those that the machine gave to others."""
    return {"patient": PatientLoop}
