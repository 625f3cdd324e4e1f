"""A histogram with logarithmic buckets: small, and the sum of two is that of all their samples.

For what is shown while a test runs, and for what workers tell their master. A value is known to
within 1 %; the figures of a report come from the records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_BASE = 1.02  # a bucket's middle is at most 1 % from anything in it
_LOG_BASE = math.log(_BASE)
_SMALLEST = 1e-3


class LogHistogram:
    """Of positive numbers; everything below a thousandth counts as that."""

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self._buckets: dict[int, int] = dict(buckets or {})

    @property
    def n(self) -> int:
        return sum(self._buckets.values())

    @property
    def buckets(self) -> dict[int, int]:
        """Counts by bucket, what `LogHistogram` makes the same histogram of."""
        return dict(self._buckets)

    def add(self, value: float) -> None:
        bucket = math.floor(math.log(max(value, _SMALLEST)) / _LOG_BASE)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def merge(self, other: LogHistogram) -> None:
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    def quantile(self, q: float) -> float | None:
        """To within 1 %; None without a sample. `q` lies in 0..1."""
        wanted = max(1, math.ceil(q * self.n))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return math.exp((bucket + 0.5) * _LOG_BASE)
        return None
