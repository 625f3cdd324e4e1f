"""How the popularity of adapters moves during a run: the hot set rotates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Churn:
    """Every `every_s` seconds of planned time, or every `every_requests` requests of the stream,
    each weight moves on to the next name. One of the two is set."""

    every_s: float | None = None
    every_requests: int | None = None

    def shift_at(self, *, index: int, at_ns: int | None) -> int:
        """How often the names have moved on before this request.

        Raises ValueError for seconds in a closed loop, where nobody knows beforehand what time it
        will be: the stream would be another on each run.
        """
        if self.every_requests is not None:
            return index // self.every_requests
        assert self.every_s is not None
        if at_ns is None:
            raise ValueError(
                f"a closed loop cannot rotate every {self.every_s:g}s; "
                "write a number of requests, such as rotate:100"
            )
        return int(at_ns / (self.every_s * 1e9))


def parse_churn(text: str) -> Churn:
    """Reads `rotate:30s` or `rotate:100` (requests); ValueError says what was wrong."""
    kind, _, period = text.partition(":")
    try:
        if kind != "rotate":
            raise ValueError
        if period.endswith("s"):
            churn = Churn(every_s=float(period[:-1]))
        else:
            churn = Churn(every_requests=int(period))
    except ValueError as exc:
        raise ValueError(f"churn {text!r} is not rotate:30s or rotate:100 (requests)") from exc
    if not (churn.every_s or churn.every_requests or 0) > 0:
        raise ValueError(f"churn {text!r} has a period that is not > 0")
    return churn
