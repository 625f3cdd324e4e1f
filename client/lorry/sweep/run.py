"""Runs a study, point by point."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry.batch.arrivals import Arrivals
from lorry.batch.request import Item
from lorry.options import canonical
from lorry.sweep.environment import describe_client, describe_servers
from lorry.sweep.grid import AdapterMix, TokenMix, read_grid
from lorry.sweep.measure import measure_point
from lorry.sweep.plan import read_plan
from lorry.sweep.point import StudySetting, SweepPoint
from lorry.sweep.requests import PromptPool
from lorry.sweep.result import SweepResult
from lorry.sweep.study_file import append_point, resume_study

if TYPE_CHECKING:
    from lorry.client import AsyncClient

_SET_BY_THE_SWEEP = frozenset({"adapter", "max_tokens", "tag", "request_id", "token_times"})


async def run_sweep(
    client: AsyncClient,
    *,
    concurrency: int | Sequence[int] | None,
    arrivals: Arrivals | Sequence[Arrivals] | None,
    adapters: Sequence[AdapterMix],
    max_tokens: int | Sequence[TokenMix],
    prompts: Sequence[Item] | None,
    requests_per_point: int | None,
    duration_s: float | None,
    warmup: int | None,
    seed: int,
    journal: str | os.PathLike[str] | None,
    on_point: Callable[[SweepPoint], object] | None,
    shared: Mapping[str, Any],
) -> SweepResult:
    """See `lorry.sweep`, which has the defaults."""
    points = read_grid(
        concurrency=concurrency, arrivals=arrivals, adapters=adapters, max_tokens=max_tokens
    )
    plan = read_plan(requests_per_point=requests_per_point, duration_s=duration_s, warmup=warmup)
    options = canonical(shared)
    for name in sorted(_SET_BY_THE_SWEEP & options.keys()):
        raise TypeError(f"{name} is set by the sweep itself")
    # those of the client hold for every request too
    spoken = {**_defaults(client), **options}
    pool = PromptPool(prompts, seed=seed)
    setting = StudySetting(
        requests_per_point=plan.requests_per_point,
        duration_s=plan.duration_s,
        warmup=plan.warmup,
        seed=seed,
        prompts=pool.digest,
        options={name: _as_json(value) for name, value in sorted(spoken.items())},
    )
    path = None if journal is None else Path(journal)
    known = {} if path is None else {p.setting: p for p in resume_study(path, setting)}
    environment = {
        "client": describe_client(),
        "servers": await describe_servers(client._session),
    }
    measured = []
    for grid_point in points:
        point = known.get(grid_point.setting)
        if point is None:
            point = await measure_point(
                grid_point,
                generate=client._generate_item,
                pool=pool,
                plan=plan,
                shared=options,
                environment=environment,
            )
            if path is not None:
                append_point(path, point)
        measured.append(point)
        if on_point is not None:
            on_point(point)
    return SweepResult(setting, tuple(measured))


def _as_json(value: Any) -> Any:
    """Options as they are read back from a file; what JSON does not know as it prints."""
    return value if isinstance(value, (str, int, float, bool)) else repr(value)


def _defaults(client: AsyncClient) -> dict[str, Any]:
    """What the client adds to every request, and the sweep does not set."""
    defaults = client._session.defaults
    return {name: value for name, value in defaults.items() if name not in _SET_BY_THE_SWEEP}
