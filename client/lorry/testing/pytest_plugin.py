"""The fixture `lorry_fake_server`; a `conftest.py` asks for it by

pytest_plugins = ["lorry.testing.pytest_plugin"]

It is not registered as an entry point: every run of pytest, also of other projects in the same
environment, would then import this package.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lorry.testing.fake_server import FakeServer


@pytest.fixture
def lorry_fake_server() -> Iterator[FakeServer]:
    """A `FakeServer` in a thread of its own, for tests of either kind; set its `answers`."""
    with FakeServer() as server:
        yield server
