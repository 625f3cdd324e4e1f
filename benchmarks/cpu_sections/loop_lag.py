"""How long the server's event loop keeps others waiting while streams run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cpu_sections.contestant import HttpContestant, Work
from cpu_sections.report import Report, Row
from cpu_sections.throughput import NEW_TOKENS, PROMPT_TOKENS
from cpu_sections.timer_floor import sleep_lag_ms

PROBE = Path(__file__).with_name("lag_probe.py")
CHEAPEST_PATH = "/health/live"
INTERVAL_MS = 10
WANTED_P99_MS = 5.0
IDLE_S = 2.0
FLOOR_S = 10.0
BUCKET = re.compile(r'^(?P<name>\w*loop_lag\w*)_bucket\{.*le="(?P<le>[^"]+)".*\} (?P<count>\S+)$')


def loop_lag(report: Report, ours: HttpContestant, *, concurrency: int, seconds: float) -> None:
    """Ask for the cheapest answer every 10 ms, first beside nothing, then beside the streams.

    The time of an answer holds two passages through the kernel, the parsing of a request, and the
    probe's own wait for a core: it is an upper bound of the loop's lag. Where the server counts
    its lag itself, that is reported too.
    """
    floor_ms = sleep_lag_ms(FLOOR_S)
    idle_ms = _probe(ours.base_url, IDLE_S)
    before = _lag_buckets(ours.base_url)
    under_load_ms: list[float] = []
    probe = threading.Thread(
        target=lambda: under_load_ms.extend(_probe(ours.base_url, seconds)), daemon=True
    )
    started_s = time.monotonic()
    num_tokens = 0
    probe.start()
    while probe.is_alive():
        work = Work(
            concurrency=concurrency,
            num_requests=2 * concurrency,
            prompt_tokens=PROMPT_TOKENS,
            new_tokens=NEW_TOKENS,
            seed=5000 + num_tokens,
        )
        num_tokens += ours.run(work).num_tokens
    rate = num_tokens / (time.monotonic() - started_s)
    after = _lag_buckets(ours.base_url)
    if not under_load_ms:
        report.progress("lag: the probe has no answers; see its message above")
        return
    p99_ms = _percentile(under_load_ms, 99)
    report.progress(f"lag: p99 {p99_ms:.1f} ms of {len(under_load_ms)} answers")
    report.add(
        Row(
            "lag",
            f"p99 of GET {CHEAPEST_PATH} every {INTERVAL_MS} ms beside {concurrency} streams "
            f"({rate:.0f} tokens/s), an upper bound of the loop's lag, to the limit",
            p99_ms / WANTED_P99_MS,
            f"{p99_ms:.1f} ms",
            f"{WANTED_P99_MS:.0f} ms",
            "at most 1.00",
        ),
        Row("lag", "p50, p99, max of it beside the streams", None, _summary(under_load_ms)),
        Row("lag", "p50, p99, max of it beside nothing", None, _summary(idle_ms)),
        Row(
            "lag",
            "p50, p99, max by which a bare sleep of 20 ms is late beside one spinning process a "
            "core: the machine's own part",
            None,
            _summary(floor_ms),
        ),
    )
    for name, counts in after.items():
        bound_s = _quantile(counts, before.get(name, {}), 0.99)
        if bound_s is not None:
            report.add(
                Row(
                    "lag",
                    f"p99 of the server's own `{name}`, upper end of its bucket, to the limit",
                    1e3 * bound_s / WANTED_P99_MS,
                    f"{1e3 * bound_s:.1f} ms",
                    f"{WANTED_P99_MS:.0f} ms",
                    "at most 1.00",
                )
            )
    report.keep(
        "lag",
        {
            "floor_ms": floor_ms,
            "idle_ms": idle_ms,
            "under_load_ms": under_load_ms,
            "metrics": after,
        },
    )


def _probe(base_url: str, seconds: float) -> list[float]:
    url = urlsplit(base_url)
    command = [sys.executable, "-S", str(PROBE), str(url.hostname), str(url.port), CHEAPEST_PATH]
    command += [str(seconds), str(INTERVAL_MS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=seconds + 60)
    latencies_ms: list[float] = json.loads(done.stdout) if done.returncode == 0 else []
    return latencies_ms


def _lag_buckets(base_url: str) -> dict[str, dict[float, float]]:
    """Cumulative counts by upper bound in seconds, of every histogram with loop_lag in its name."""
    with urllib.request.urlopen(f"{base_url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    histograms: dict[str, dict[float, float]] = {}
    for match in filter(None, map(BUCKET.match, lines)):
        histograms.setdefault(match["name"], {})[float(match["le"])] = float(match["count"])
    return histograms


def _quantile(
    after: Mapping[float, float], before: Mapping[float, float], share: float
) -> float | None:
    counts = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    total = max(counts.values(), default=0.0)
    if total == 0:
        return None
    return min(bound for bound, count in counts.items() if count >= share * total)


def _summary(values_ms: list[float]) -> str:
    if not values_ms:
        return "no answers"
    return (
        f"{_percentile(values_ms, 50):.1f}, {_percentile(values_ms, 99):.1f}, "
        f"{max(values_ms):.1f} ms of {len(values_ms)} answers"
    )


def _percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]
