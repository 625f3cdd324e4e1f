"""Steps and ramps as locust's load shapes, from the same text as an open loop's rates.

In a closed loop a shape gives the number of users. A shape of a locustfile whose users have an
`arrival` without a rate gives that rate: one request per second for each user of the shape.
"""

from __future__ import annotations

from locust import LoadTestShape

from lorry_loadtest.rates import parse_rates


class RatesShape(LoadTestShape):  # type: ignore[misc]  # locust's own types are not read
    """Subclass it and set `users`, such as `2x30s,4x30s` or `1..10x60s`; ends after the last."""

    abstract = True

    users: str = ""

    def tick(self) -> tuple[int, float] | None:
        users = parse_rates(self.users).at(self.get_run_time())
        return None if users is None else (max(1, round(users)), max(1.0, users))
