"""Follows the server's own account of itself during a run: `/metrics` and its log of steps.

Both are optional. A server without them costs one question, and a sentence in the notes.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import gevent
import msgspec

from lorry_loadtest.connection import Connection
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.http_get import GetFailed, http_get
from lorry_loadtest.observations import ServerSample
from lorry_loadtest.wall_clock import offset_now_ns

INTERVAL_S = 0.5
STEPS_PER_READ = 1000
# Ten minutes of them. In a longer run older ones are thinned out, the first one never.
MAX_SAMPLES = 1200
# Half an hour of steps of 36 ms, in some 60 MB. In a longer run the latest are kept.
MAX_STEPS = 50_000
_TIMEOUT_S = 5.0
# Buckets of histograms are most of the text and of no use as a time series.
_SKIPPED = ("_bucket", "_created")


class ServerScrape:
    """A greenlet between `start` and `stop`; `samples` and `steps` may be read at any time.

    Times count from `origin_ns`. A step keeps the fields that the server gave it. Added are `t_ns`,
    its end by the server's wall clock, which on one machine is ours, and the names that other parts
    know its blocks by.
    """

    def __init__(self, endpoint: Endpoint, *, origin_ns: int, api_key: str | None = None) -> None:
        self.samples: list[ServerSample] = []
        self.steps: deque[dict[str, Any]] = deque(maxlen=MAX_STEPS)
        self.notes: list[str] = []
        self._endpoint = endpoint
        self._api_key = api_key
        self._origin_ns = origin_ns
        self._connection = Connection(endpoint, connect_timeout_s=_TIMEOUT_S)
        self._wants_metrics = True
        self._wants_steps = True
        self._next_step: int | None = None
        self._num_left_out = 0
        self._greenlet: Any = None

    def start(self) -> None:
        self.read_once()
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Reads once more, so that the counters hold all of the run."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self.read_once()
        if self._num_left_out:
            self._note(
                f"of the server's step log the latest {MAX_STEPS:,} steps were kept and the "
                f"{self._num_left_out:,} before them left out: no cause is told of earlier stalls"
            )
        self._connection.close()

    def read_once(self) -> None:
        if self._wants_metrics:
            self._read_metrics()
        if self._wants_steps:
            self._read_steps()

    def _run(self) -> None:
        while True:
            before_s = time.monotonic()
            self.read_once()
            gevent.sleep(max(0.0, INTERVAL_S - (time.monotonic() - before_s)))

    def _read_metrics(self) -> None:
        try:
            text = self._get("/metrics")
        except GetFailed as exc:
            self._wants_metrics = self._goes_on("metrics", exc, has_some=bool(self.samples))
            return
        now_ns = time.perf_counter_ns() - self._origin_ns
        self.samples.append(ServerSample(t_ns=now_ns, values=parse_metrics(text.decode())))
        if len(self.samples) > MAX_SAMPLES:
            self.samples = [*self.samples[:-1:2], self.samples[-1]]

    def _read_steps(self) -> None:
        """As many pages as there are; the first question only asks where the log stands."""
        while True:
            since = "" if self._next_step is None else f"since={self._next_step}&"
            try:
                body = self._get(f"/v1/steps?{since}limit={STEPS_PER_READ}")
                page = msgspec.json.decode(body, type=_StepPage)
            except (GetFailed, msgspec.MsgspecError) as exc:
                self._wants_steps = self._goes_on("steps", exc, has_some=bool(self.steps))
                return
            if self._next_step is not None:
                self._keep(page, asked_from=self._next_step)
            self._next_step = page.next
            if len(page.steps) < STEPS_PER_READ:
                return

    def _keep(self, page: _StepPage, *, asked_from: int) -> None:
        if page.missed:
            self._note("some of the server's steps were made and forgotten between two reads")
        if page.next < asked_from:
            self._note("the server was started again during the run")
        wall_ns = offset_now_ns() + self._origin_ns
        for step in page.steps:
            placed = {
                **step,
                "kv_used": step.get("kv_blocks_used"),
                "kv_total": page.kv_blocks_total,
            }
            if "start_ms" in step and "step_ms" in step:
                placed["t_ns"] = round((step["start_ms"] + step["step_ms"]) * 1e6) - wall_ns
            self._num_left_out += len(self.steps) == MAX_STEPS
            self.steps.append(placed)

    def _get(self, path: str) -> bytes:
        return http_get(
            self._endpoint,
            path,
            api_key=self._api_key,
            timeout_s=_TIMEOUT_S,
            connection=self._connection,
        )

    def _goes_on(self, what: str, failure: Exception, *, has_some: bool) -> bool:
        """A server that never had it is not asked again; a busy one is."""
        if has_some:
            self._note(f"a read of the server's {what} failed during the run")
            return True
        self._note(f"the server offers no {what}: {failure}")
        return False

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


class _StepPage(msgspec.Struct, frozen=True):
    """`next` is what to ask for next, `missed` how many of those asked for were gone."""

    steps: list[dict[str, Any]]
    next: int
    missed: int = 0
    kv_blocks_total: int | None = None


def parse_metrics(text: str) -> dict[str, float]:
    """The samples of the Prometheus text format, by name with labels as they stand."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        series, _, number = line.rpartition(" ")
        if series.partition("{")[0].endswith(_SKIPPED):
            continue
        try:
            values[series] = float(number)
        except ValueError:
            continue  # not a sample; other servers' pages are not ours to judge
    return values
