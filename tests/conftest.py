"""Fixtures that any test may ask for, and the event loop of those that have one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import pytest
import torch

from tests.support.patient_loop import PatientLoop


@pytest.fixture(scope="session", autouse=True)
def one_compute_thread() -> None:
    """Tiny models lose more to the threads' meetings than they win by them."""
    torch.set_num_threads(1)


@pytest.fixture
async def stamps_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamps are on the loop's clock too: what is measured is of the test's own seconds."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(time, "perf_counter_ns", lambda: round(loop.time() * 1e9))


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A limit of time is of a test's own seconds, not of those that the machine gave to others."""
    return {"patient": PatientLoop}
