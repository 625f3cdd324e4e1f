"""Steps and ramps as locust's load shapes, from the same text as an open loop's rates.

In a closed loop a shape gives the number of users. A shape of a locustfile whose users have an
`arrival` without a rate gives that rate: one request per second for each user of the shape.
"""

from __future__ import annotations

from locust import LoadTestShape

from lorry_loadtest.rates import Rates, Stretch, parse_rates

_TICK_S = 1.0
_LONGEST_S = 86_400.0


class RatesShape(LoadTestShape):  # type: ignore[misc]  # locust's own types are not read
    """Subclass it and set `users`, such as `2x30s,4x30s` or `1..10x60s`; ends after the last."""

    abstract = True

    users: str = ""

    def tick(self) -> tuple[int, float] | None:
        users = parse_rates(self.users).at(self.get_run_time())
        return None if users is None else (max(1, round(users)), max(1.0, users))


def rates_of_shape(shape: LoadTestShape) -> Rates:
    """What a shape would ask for, second by second, read before the run.

    Raises ValueError for a shape that never ends or that never asks for anyone.
    """
    clock = [0.0]
    shape.get_run_time = lambda: clock[0]
    stretches: list[Stretch] = []
    try:
        while (asked := shape.tick()) is not None:
            if clock[0] >= _LONGEST_S:
                raise ValueError(f"the shape {type(shape).__name__} does not end within a day")
            stretches.append(Stretch(float(asked[0]), float(asked[0]), _TICK_S))
            clock[0] += _TICK_S
    finally:
        del shape.get_run_time
    return Rates(tuple(stretches))
