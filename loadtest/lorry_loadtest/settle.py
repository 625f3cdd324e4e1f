"""Moves the start of the window to where the run had settled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lorry_loadtest import metrics
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.statistics.steady import Drift, drift, warm_up_cut

_BIN_NS = 250_000_000
_MIN_REQUESTS = 40
_MATTERS = 0.05


@dataclass(frozen=True, slots=True)
class Settling:
    """How steady a window is. `cut_ns` is None when a series never settled.

    The drifts are of the second half of the window against the first.
    """

    cut_ns: int | None
    tpot_drift: Drift | None
    throughput_drift: Drift | None


def settling(run: LevelRun) -> Settling:
    """By TTFT and TPOT in the order of arrival and tokens per quarter of a second.

    TTFT and TPOT vote by MSER-5; the later cut wins. A series that is too short to judge does not
    vote, nor one whose mean a cut would hardly move: noise has a minimum somewhere too.
    """
    finished = [record for record in run.cohort if record.outcome == "ok"]
    tokens = [float(count) for count in tokens_per_bin(run)]
    speeds = [value for r in finished if (value := metrics.tpot_ms(r)) is not None]
    cuts: list[int | None] = [0]
    if len(finished) >= _MIN_REQUESTS:
        for latency in (metrics.ttft_ms, metrics.tpot_ms):
            series = [(r.t_sched_ns, v) for r in finished if (v := latency(r)) is not None]
            if len(series) < _MIN_REQUESTS:
                continue
            cut = warm_up_cut([value for _, value in series])
            if _matters([value for _, value in series], cut):
                cuts.append(None if cut is None else series[cut][0] - run.window_start_ns)
    known = [cut for cut in cuts if cut is not None]
    return Settling(
        cut_ns=None if len(known) < len(cuts) else max(known),
        tpot_drift=drift(speeds),
        throughput_drift=drift(tokens),
    )


def _matters(values: Sequence[float], cut: int | None) -> bool:
    """Whether what would be cut differs from the rest; without a cut the halves are compared."""
    place = len(values) // 2 if cut is None else cut
    if place == 0:
        return False
    before = math.fsum(values[:place]) / place
    after = math.fsum(values[place:]) / (len(values) - place)
    return abs(before - after) > _MATTERS * abs(after)


def settle(run: LevelRun) -> LevelRun:
    """The run with its window cut where it settled; as it is when it never did, or never should."""
    if changes_by_plan(run):
        return run
    cut_ns = settling(run).cut_ns
    return run.cut(cut_ns) if cut_ns else run


def changes_by_plan(run: LevelRun) -> bool:
    """Whether the load goes up and down because it was asked to, in steps, ramps or as a trace did.

    What MSER-5 takes for a warm-up is then the beginning of the load.
    """
    return run.facts.declared.arrival in ("shape", "trace")


def tokens_per_bin(run: LevelRun) -> list[int]:
    """Tokens that arrived in each quarter of a second of the window; a rest at its end is left out."""
    num_bins = (run.window_end_ns - run.window_start_ns) // _BIN_NS
    counts = [0] * num_bins
    for record in run.measured:
        for stamp_ns, count in zip(record.event_ns, record.event_tokens, strict=True):
            bin_ = (stamp_ns - run.window_start_ns) // _BIN_NS
            if 0 <= bin_ < num_bins:
                counts[bin_] += count
    return counts


BINS_PER_S = 1_000_000_000 // _BIN_NS
