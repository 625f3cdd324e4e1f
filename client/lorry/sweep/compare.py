"""Two studies, or two points, in one line: how many times as fast the second is."""

from __future__ import annotations

import msgspec

from lorry.sweep.confidence import Estimate, mean_ratio
from lorry.sweep.point import SweepPoint
from lorry.sweep.result import SweepResult


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Ratios second / first, as geometric means over the points that both have."""

    num_points: int
    output_tokens_per_s: Estimate | None
    ttft_p50: Estimate | None

    def __str__(self) -> str:
        points = "1 point" if self.num_points == 1 else f"{self.num_points} points"
        return (
            f"second / first over {points}: output tokens/s {_shown(self.output_tokens_per_s)}, "
            f"median time to first token {_shown(self.ttft_p50)}"
        )


def compare(first: SweepResult | SweepPoint, second: SweepResult | SweepPoint) -> Comparison:
    """The second in terms of the first, with 95 % intervals.

    Two results are compared at the settings that both have; ValueError if there are none, or if
    the studies differ in prompts or options. Two points are compared as they are. The intervals
    hold the scatter within the runs; that between runs, another time of day for instance, only a
    repetition shows.
    """
    if isinstance(first, SweepPoint) and isinstance(second, SweepPoint):
        pairs = [(first, second)]
    elif isinstance(first, SweepResult) and isinstance(second, SweepResult):
        if first.setting.prompts != second.setting.prompts:
            raise ValueError("the two studies have different prompts")
        if first.setting.options != second.setting.options:
            raise ValueError("the two studies have different options")
        others = {point.setting: point for point in second.points}
        pairs = [(p, others[p.setting]) for p in first.points if p.setting in others]
        if not pairs:
            raise ValueError("the two studies have no setting in common")
    else:
        raise TypeError("compare takes two results of a sweep or two points")
    return Comparison(
        num_points=len(pairs),
        output_tokens_per_s=mean_ratio(
            [
                (a.output_tokens_per_s, b.output_tokens_per_s)
                for a, b in pairs
                if a.output_tokens_per_s is not None and b.output_tokens_per_s is not None
            ]
        ),
        ttft_p50=mean_ratio(
            [
                (a.ttft_from_intended.p50, b.ttft_from_intended.p50)
                for a, b in pairs
                if a.ttft_from_intended.p50 is not None and b.ttft_from_intended.p50 is not None
            ]
        ),
    )


def _shown(ratio: Estimate | None) -> str:
    if ratio is None:
        return "n/a"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3g} times"
    return f"{ratio.value:.3g} times (95 % interval {ratio.low:.3g} to {ratio.high:.3g})"
