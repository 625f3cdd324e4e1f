"""How evenly several parties are served."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.statistics.quantiles import quantile


def jain_index(values: Sequence[float]) -> float | None:
    """1 when all are equal, 1/n when one has everything (Jain, Chiu and Hawe, 1984)."""
    squares = sum(value * value for value in values)
    if not squares:
        return None
    return sum(values) ** 2 / (len(values) * squares)


def worst_to_median(values: Sequence[float]) -> float | None:
    """The largest of `values` over their median; None without values or with a median of 0."""
    if not values:
        return None
    ordered = sorted(values)
    median = quantile(ordered, 0.5)
    return ordered[-1] / median if median else None
