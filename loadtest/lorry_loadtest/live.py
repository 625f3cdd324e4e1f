"""What is known while a test runs: counts and histograms, by adapter, which add up over workers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from lorry_loadtest import metrics
from lorry_loadtest.histogram import LogHistogram
from lorry_loadtest.records import RequestRecord

_METRICS = {"ttft_ms": metrics.ttft_ms, "tpot_ms": metrics.tpot_ms, "e2e_ms": metrics.e2e_ms}
# With hundreds of adapters the rest share one line; all of them are in the records.
_MOST_ADAPTERS = 20
OTHERS = "(others)"


class _Wire(msgspec.Struct, array_like=True):
    """What a worker sends its master of the time since it last did."""

    outcomes: dict[str, int]
    num_tokens: int
    histograms: dict[str, dict[int, int]]


class LiveSummary:
    """Fed with records, or with what other summaries gave away."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.num_tokens = 0
        # by metric and adapter, "" for all of them
        self.histograms: dict[tuple[str, str], LogHistogram] = {}
        self._adapters: set[str] = set()

    def add(self, record: RequestRecord) -> None:
        self.outcomes[record.outcome] += 1
        self.num_tokens += record.completion_tokens
        if record.outcome != "ok":
            return
        adapter = self._name(record.adapter or "(base)")
        for name, metric in _METRICS.items():
            value = metric(record)
            if value is not None:
                for part in ("", adapter):
                    self.histograms.setdefault((name, part), LogHistogram()).add(value)
        gaps = self.histograms.setdefault(("gap_ms", ""), LogHistogram())
        for gap in metrics.chunk_gaps_ms(record):
            gaps.add(gap)

    def take(self) -> bytes:
        """All of it for someone else, who merges it; begins again with nothing."""
        message = _Wire(
            dict(self.outcomes),
            self.num_tokens,
            {f"{name}|{part}": h.buckets for (name, part), h in self.histograms.items()},
        )
        self.outcomes.clear()
        self.num_tokens = 0
        self.histograms.clear()
        return msgspec.msgpack.encode(message)

    def merge(self, message: bytes) -> None:
        """What `take` gave; msgspec.MsgspecError when it is something else."""
        other = msgspec.msgpack.decode(message, type=_Wire)
        self.outcomes.update(other.outcomes)
        self.num_tokens += other.num_tokens
        for key, buckets in other.histograms.items():
            name, _, part = key.partition("|")
            self.histograms.setdefault((name, part), LogHistogram()).merge(LogHistogram(buckets))

    def as_dict(self) -> dict[str, Any]:
        """For a page: counts, and p50, p95 and p99 of each metric in milliseconds, by adapter."""
        return {
            "outcomes": dict(self.outcomes),
            "output_tokens": self.num_tokens,
            "latencies": {
                f"{name}|{part}": {
                    "n": histogram.n,
                    **{f"p{q}": histogram.quantile(q / 100) for q in (50, 95, 99)},
                }
                for (name, part), histogram in sorted(self.histograms.items())
            },
        }

    def _name(self, adapter: str) -> str:
        if adapter not in self._adapters and len(self._adapters) >= _MOST_ADAPTERS:
            return OTHERS
        self._adapters.add(adapter)
        return adapter
