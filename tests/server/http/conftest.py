"""Every test of the HTTP side fails when something blocks its event loop, and can read the log."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from structlog.testing import capture_logs

LogRecord = MutableMapping[str, Any]


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    with blockbuster_ctx("lorry_server") as guard:
        yield guard


@pytest.fixture(autouse=True)
def log() -> Iterator[list[LogRecord]]:
    """The structured records of this test, unrendered: a traceback's rendering reads files."""
    with capture_logs() as records:
        yield records
