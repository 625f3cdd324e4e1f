"""The memory of timings by request id."""

from __future__ import annotations

import pytest

from lorry.call_log import CallLog
from lorry.timing import Stopwatch


def test_log_of_calls_is_bounded_and_forgets_the_oldest() -> None:
    log = CallLog(max_calls=2)
    for name in ("a", "b", "c"):
        log.add(name, Stopwatch(created_ns=ord(name), intended_ns=0))

    assert log.timing("c", num_tokens=None).created_ns == ord("c")
    with pytest.raises(LookupError):
        log.timing("a", num_tokens=None)
