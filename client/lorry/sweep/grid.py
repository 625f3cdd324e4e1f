"""The points of a study: every mix of adapters with every `max_tokens` at every load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

from lorry.batch.arrivals import Arrivals
from lorry.sweep.point import PointSetting

AdapterMix: TypeAlias = str | Sequence[str | None] | None
TokenMix: TypeAlias = int | Sequence[int]


@dataclass(frozen=True, slots=True)
class GridPoint:
    """A setting, and the schedule that an open loop runs by."""

    setting: PointSetting
    arrivals: Arrivals | None


def read_grid(
    *,
    concurrency: int | Sequence[int] | None,
    arrivals: Arrivals | Sequence[Arrivals] | None,
    adapters: Sequence[AdapterMix],
    max_tokens: int | Sequence[TokenMix],
) -> list[GridPoint]:
    """Curve by curve, each in the order of the loads.

    Raises TypeError or ValueError that names the wrong value and what would be right.
    """
    if (concurrency is None) == (arrivals is None):
        raise ValueError("a sweep is over concurrency=[...] or over arrivals=[...]: give one")
    mixes = [_adapter_mix(entry) for entry in _listed("adapters", adapters, single=())]
    limits = [_token_mix(entry) for entry in _listed("max_tokens", max_tokens, single=int)]
    loads: list[tuple[int | None, Arrivals | None]]
    if arrivals is not None:
        schedules = [arrivals] if isinstance(arrivals, Arrivals) else arrivals
        loads = [(None, _schedule(entry)) for entry in _listed("arrivals", schedules, single=())]
    else:
        levels = _listed("concurrency", concurrency, single=int)
        loads = [(_whole("concurrency", level), None) for level in levels]
    points = [
        GridPoint(
            PointSetting(
                adapters=mix,
                max_tokens=limit,
                concurrency=level,
                arrivals=None if schedule is None else repr(schedule),
            ),
            schedule,
        )
        for mix, limit, (level, schedule) in product(mixes, limits, loads)
    ]
    for number, point in enumerate(points):
        if point.setting in [earlier.setting for earlier in points[:number]]:
            raise ValueError(f"the point {point.setting} is there twice")
    return points


def _adapter_mix(entry: Any) -> tuple[str | None, ...]:
    names = (entry,) if entry is None or isinstance(entry, str) else entry
    if not isinstance(names, Sequence) or not names:
        raise _wrong_mix(entry)
    if not all(name is None or isinstance(name, str) for name in names):
        raise _wrong_mix(entry)
    return tuple(name or None for name in names)


def _wrong_mix(entry: Any) -> TypeError:
    return TypeError(
        f"adapters holds {entry!r}; an entry is a name, None for the base model, or a list of "
        "those that requests take in turn"
    )


def _token_mix(entry: Any) -> tuple[int, ...]:
    if isinstance(entry, Sequence) and not isinstance(entry, str) and entry:
        return tuple(_whole("max_tokens", limit) for limit in entry)
    return (_whole("max_tokens", entry),)


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} holds {value!r}; it must be a whole number of at least 1")
    return value


def _schedule(entry: Any) -> Arrivals:
    if not isinstance(entry, Arrivals):
        raise TypeError(
            f"arrivals holds {entry!r}; it must be a lorry.Constant, Poisson, Gamma or Trace"
        )
    return entry


def _listed(name: str, value: Any, *, single: type | tuple[type, ...]) -> list[Any]:
    if isinstance(value, single) and not isinstance(value, bool):
        return [value]
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is {value!r}; it must be a list")
    entries = list(value)
    if not entries:
        raise ValueError(f"{name} is empty")
    return entries
