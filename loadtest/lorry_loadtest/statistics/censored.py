"""Quantiles when some values are only known to be larger than what was seen."""

from __future__ import annotations

from collections.abc import Sequence


def censored_quantile(
    finished: Sequence[float], censored: Sequence[float], q: float
) -> float | None:
    """The Kaplan-Meier quantile: the smallest finished value by which a share `q` had ended.

    `censored` holds how long each of the others had lasted when it was given up. None when the
    curve never gets there: all that can be said is that the quantile is above what was seen.
    Ties count as finished first (Kaplan and Meier, 1958).
    """
    events = sorted([(value, 0) for value in finished] + [(value, 1) for value in censored])
    at_risk = len(events)
    survival = 1.0
    for value, is_censored in events:
        if not is_censored:
            survival *= 1.0 - 1.0 / at_risk
            if survival <= 1.0 - q + 1e-12:
                return value
        at_risk -= 1
    return None
