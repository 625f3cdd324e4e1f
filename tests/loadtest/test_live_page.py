"""The page beside locust's own, while a test runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lorry_loadtest.live import LiveSummary
from lorry_loadtest.live_history import MAX_POINTS, LiveHistory
from lorry_loadtest.mock_server import MockServer, MockTimes
from lorry_loadtest.report.live_fragment import live_fragment
from tests.support.free_port import free_port
from tests.support.loadtest_records import make_record
from tests.support.mock_llm_server import running_mock

ROOT = Path(__file__).parents[2]


def test_each_point_is_of_its_own_interval() -> None:
    live, history = LiveSummary(), LiveHistory()
    for _ in range(10):
        live.add(make_record(events_ms=(100.0, 110.0)))
    history.sample(2.0, live)
    for _ in range(20):
        live.add(make_record(events_ms=(400.0, 430.0)))
    live.add(make_record(outcome="http_429"))
    history.sample(4.0, live)
    history.sample(6.0, live)

    first, second, third = history.points
    assert (first.tokens_per_s, second.tokens_per_s, third.tokens_per_s) == (10.0, 20.0, 0.0)
    assert first.ttft_p95 == pytest.approx(100.0, rel=0.01)
    assert second.ttft_p50 == pytest.approx(400.0, rel=0.01)
    assert second.failed_per_s == 0.5
    assert third.ttft_p50 is None


def test_a_long_test_keeps_a_bounded_number_of_points() -> None:
    live, history = LiveSummary(), LiveHistory()
    for number in range(5 * MAX_POINTS):
        history.sample(2.0 * number + 2.0, live)

    assert len(history.points) <= MAX_POINTS
    assert history.points[-1].t_s > 2.0 * 4.9 * MAX_POINTS
    assert [p.t_s for p in history.points] == sorted(p.t_s for p in history.points)


def test_the_fragment_has_curves_and_adapters_and_escapes_names() -> None:
    live, history = LiveSummary(), LiveHistory()
    live.add(make_record(events_ms=(100.0, 110.0), adapter="<b>"))
    history.sample(2.0, live)

    text = live_fragment(history.points, live)

    assert text.count("<svg") == 6
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "No test has begun" in live_fragment([], LiveSummary())


def test_locusts_web_ui_serves_the_page_and_it_follows_the_test(tmp_path: Path) -> None:
    port = free_port()
    paths = os.pathsep.join([str(ROOT / "client"), str(ROOT / "loadtest")])
    with running_mock(MockServer(times=MockTimes(first_ms=5, gap_ms=1))) as mock:
        locust = subprocess.Popen(
            [
                *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py")),
                *("--host", mock.url, "--web-host", "127.0.0.1", "--web-port", str(port)),
                *("--autostart", "-u", "2", "-r", "2", "--max-tokens", "4"),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": paths},
            stderr=subprocess.DEVNULL,
        )
        try:
            page = wait_for(f"http://127.0.0.1:{port}/lorry", r"The test as it runs")
            now = wait_for(f"http://127.0.0.1:{port}/lorry/now", r">alpha<")
        finally:
            locust.terminate()
            locust.wait(timeout=30)

    assert "lorry/now" in page
    assert now.count("<svg") == 6


def wait_for(url: str, pattern: str) -> str:
    """What the address serves as soon as it has the pattern."""
    text = ""
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                text = response.read().decode()
        except urllib.error.URLError:
            text = ""
        if re.search(pattern, text):
            return text
        time.sleep(0.2)
    raise AssertionError(f"{url} never had {pattern!r}: {text[:500]}")
