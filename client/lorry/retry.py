"""When to send a request again: pure arithmetic on what failed and how much time is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lorry.errors import ClientError, HTTPStatusError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `max_attempts` in all, and only after failures that cannot have run the request.

    Those are a refused connection and an answer 429 or 503 (409 for a loading adapter) without
    `x-should-retry: false`. A delay is drawn from 0 to `base_s` doubled per attempt, at most
    `cap_s` ("full jitter"). A `Retry-After` of the server is kept to and the drawn delay added, so
    that a herd that was sent away together does not come back together; one beyond
    `max_retry_after_s` is not waited for.
    """

    max_attempts: int = 3
    base_s: float = 0.25
    cap_s: float = 8.0
    max_retry_after_s: float = 120.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; it must be at least 1")

    def delay_s(
        self,
        failure: ClientError,
        *,
        num_attempts: int,
        remaining_s: float | None,
        random: Callable[[], float],
    ) -> float | None:
        """Seconds to wait before the next attempt, or None to give up now.

        `num_attempts` have been made, `remaining_s` is left of the deadline (None: no deadline),
        `random` returns numbers from 0 to 1.
        """
        if not failure.retryable or num_attempts >= self.max_attempts:
            return None
        # an exponent above 30 would pass any cap
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(num_attempts - 1, 30))
        delay = random() * ceiling
        retry_after = failure.retry_after if isinstance(failure, HTTPStatusError) else None
        if retry_after is not None:
            if retry_after > self.max_retry_after_s:
                return None
            delay += retry_after
        if remaining_s is not None and delay >= remaining_s:
            return None
        return delay
