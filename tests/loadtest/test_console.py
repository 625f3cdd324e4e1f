from __future__ import annotations

import io

from lorry_loadtest.console import ProgressLine
from lorry_loadtest.live import LiveSummary
from tests.support.loadtest_records import make_record


def test_progress_is_told_from_sums_and_levels_of_equal_load_are_told_apart() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream, num_levels=2)
    first, second = LiveSummary(), LiveSummary()
    for outcome in ("ok", "ok", "http_429"):
        first.add(make_record(outcome=outcome, events_ms=(1.0, 2.0)))

    line.update(first, "measure", 5.0, num_streams=4)
    line.update(second, "warm-up", 6.0, num_streams=4)

    told, next_level = stream.getvalue().splitlines()
    assert told.startswith("[1/2]   4 streams  measure")
    assert "3 done  1 failed      1.2 tokens/s" in told
    assert next_level.startswith("[2/2]")
