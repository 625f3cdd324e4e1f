"""Which level is the knee: where more load stops giving throughput and only costs latency."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.summary import LevelSummary


def knee(levels: Sequence[LevelSummary]) -> LevelSummary | None:
    """The level with the most power, throughput over mean latency (Kleinrock, 1979).

    None when nothing finished.
    """
    measured = [level for level in levels if level.latencies.e2e_ms.mean and not level.descending]
    return max(
        measured,
        key=lambda level: level.output_tokens_per_s / (level.latencies.e2e_ms.mean or 1.0),
        default=None,
    )
