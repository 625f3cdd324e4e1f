"""What the live page draws: the running test in intervals of a few seconds."""

from __future__ import annotations

from dataclasses import dataclass

from lorry_loadtest.histogram import LogHistogram
from lorry_loadtest.live import LiveSummary

MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class LivePoint:
    """One interval that ended at `t_s`. Latencies are milliseconds, None where nothing finished."""

    t_s: float
    tokens_per_s: float
    ok_per_s: float
    failed_per_s: float
    ttft_p50: float | None
    ttft_p95: float | None
    tpot_p50: float | None
    tpot_p95: float | None


class LiveHistory:
    """Fed now and then with the sums of a test since its start; keeps their differences.

    When there are too many points every other one goes, and from then on intervals are as long as
    two were, so that a soak test fits on the page too.
    """

    def __init__(self) -> None:
        self.points: list[LivePoint] = []
        self._stride = 1
        self._num_skipped = 0
        self._last = _Sums(0.0, 0, 0, 0, {})

    def sample(self, t_s: float, live: LiveSummary) -> None:
        """`t_s` seconds after the start. What came since the last sample is one point."""
        self._num_skipped += 1
        if self._num_skipped < self._stride or t_s <= self._last.t_s:
            return
        self._num_skipped = 0
        now = _sums(t_s, live)
        self.points.append(_difference(self._last, now))
        self._last = now
        if len(self.points) > MAX_POINTS:
            self.points = self.points[1::2]
            self._stride *= 2


@dataclass(frozen=True, slots=True)
class _Sums:
    t_s: float
    num_tokens: int
    num_ok: int
    num_failed: int
    buckets: dict[str, dict[int, int]]


def _sums(t_s: float, live: LiveSummary) -> _Sums:
    num_ok = live.outcomes["ok"]
    return _Sums(
        t_s=t_s,
        num_tokens=live.num_tokens,
        num_ok=num_ok,
        num_failed=sum(live.outcomes.values()) - num_ok,
        buckets={
            name: live.histograms[name, ""].buckets
            for name in ("ttft_ms", "tpot_ms")
            if (name, "") in live.histograms
        },
    )


def _difference(before: _Sums, now: _Sums) -> LivePoint:
    seconds = now.t_s - before.t_s

    def quantile(name: str, q: float) -> float | None:
        earlier = before.buckets.get(name, {})
        grown = {
            bucket: count - earlier.get(bucket, 0)
            for bucket, count in now.buckets.get(name, {}).items()
            if count > earlier.get(bucket, 0)
        }
        return LogHistogram(grown).quantile(q)

    return LivePoint(
        t_s=now.t_s,
        tokens_per_s=(now.num_tokens - before.num_tokens) / seconds,
        ok_per_s=(now.num_ok - before.num_ok) / seconds,
        failed_per_s=(now.num_failed - before.num_failed) / seconds,
        ttft_p50=quantile("ttft_ms", 0.50),
        ttft_p95=quantile("ttft_ms", 0.95),
        tpot_p50=quantile("tpot_ms", 0.50),
        tpot_p95=quantile("tpot_ms", 0.95),
    )
