"""When to send a request again: pure arithmetic on what failed, how much time and budget is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from lorry.errors import ClientError, ConfigError, HTTPStatusError, NotRetried

# what `min_per_s` may save up, and how long what `ratio` brought is remembered
BUDGET_WINDOW_S = 10.0
# a deposit within so short a time of the last one does not wait for what time brings
BUDGET_GRAIN_S = 0.001


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How much retries may add to the traffic of one server.

    Of N requests in T seconds at most `ratio * N + min_per_s * (T + 10)` are sent again: a tenth of
    the traffic, and a little that even a client that sends little has. What the traffic brought is
    forgotten over ten seconds, so a busy hour does not pay for a storm after it.
    """

    ratio: float = 0.1
    min_per_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ratio", "min_per_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"the retry budget's {name} is {value}; it must be 0 or more")


class BudgetAccount:
    """What one server's retry budget holds now: a token bucket, told the time in seconds."""

    def __init__(self, budget: RetryBudget, *, now: float) -> None:
        self._budget = budget
        self._at = now
        self._reserve = budget.min_per_s * BUDGET_WINDOW_S
        self._earned = 0.0

    def deposit(self, now: float) -> None:
        """A request is sent for the first time."""
        self._advance(now)
        self._earned += self._budget.ratio

    def withdraw(self, now: float) -> bool:
        """A request is to be sent again. Returns whether there was budget for it."""
        self._advance(now)
        if self._earned >= 1.0:
            self._earned -= 1.0
            return True
        if self._reserve + self._earned < 1.0:
            return False
        self._reserve -= 1.0 - self._earned
        self._earned = 0.0
        return True

    def _advance(self, now: float) -> None:
        passed_s = now - self._at
        if passed_s < BUDGET_GRAIN_S:
            return
        self._at = now
        self._earned *= math.exp(-passed_s / BUDGET_WINDOW_S)
        most = self._budget.min_per_s * BUDGET_WINDOW_S
        self._reserve = min(most, self._reserve + passed_s * self._budget.min_per_s)


class Verdict(msgspec.Struct, frozen=True):
    """Whether to send again: after `delay_s` seconds, or, when that is None, why not."""

    delay_s: float | None
    reason: NotRetried | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `max_attempts` in all, and only after failures that cannot have run the request.

    Those are: no connection, because it was refused or took longer than the limit on connecting,
    and an answer 429 or 503 (409 for a loading adapter) without `x-should-retry: false`. A delay is
    drawn from 0 to `base_s` doubled per attempt, at most `cap_s` ("full jitter"). A `Retry-After`
    of the server is kept to and the drawn delay added, so that a herd that was sent away together
    does not come back together; one beyond `max_retry_after_s` is not waited for. Another server
    need not be waited for in that way. `budget` bounds what retries add to the traffic of each
    server; None is no bound.
    """

    max_attempts: int = 3
    base_s: float = 0.25
    cap_s: float = 8.0
    max_retry_after_s: float = 120.0
    budget: RetryBudget | None = field(default_factory=RetryBudget)

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; it must be at least 1")
        for name in ("base_s", "cap_s", "max_retry_after_s"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name} is {value}; it must be 0 or more")

    def judge(
        self,
        failure: ClientError,
        *,
        num_attempts: int,
        remaining_s: float | None,
        random: Callable[[], float],
        goes_elsewhere: bool = False,
        answer_takes_s: float = 0.0,
    ) -> Verdict:
        """Whether and when to send again after `failure`, which ended attempt `num_attempts`.

        `remaining_s` is left of the deadline (None: no deadline); a retry that could not bring its
        first token by then, which usually takes `answer_takes_s`, is not made. `random` returns
        numbers from 0 to 1. `goes_elsewhere`: the next attempt goes to a server that was not tried.
        """
        if not failure.retryable:
            return Verdict(None, "not_retryable")
        if num_attempts >= self.max_attempts:
            return Verdict(None, "attempts")
        # an exponent above 30 would pass any cap
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(num_attempts - 1, 30))
        delay = random() * ceiling
        retry_after = failure.retry_after if isinstance(failure, HTTPStatusError) else None
        if retry_after is not None and not goes_elsewhere:
            if retry_after > self.max_retry_after_s:
                return Verdict(None, "retry_after")
            delay += retry_after
        if remaining_s is not None and delay + answer_takes_s >= remaining_s:
            return Verdict(None, "deadline")
        return Verdict(delay)


def as_retry_policy(given: RetryPolicy | int | None) -> RetryPolicy:
    """A number is the most attempts in all, 1 for no retry. Raises ConfigError for anything else."""
    if given is None:
        return RetryPolicy()
    if isinstance(given, RetryPolicy):
        return given
    if isinstance(given, bool) or not isinstance(given, int):
        raise ConfigError(f"retry is {given!r}; it must be a RetryPolicy or a number of attempts")
    if given < 1:
        raise ConfigError(f"retry is {given}; it must be at least 1, which means no retry")
    return RetryPolicy(max_attempts=given)
