"""`sweep`: a study of concurrency, adapters and lengths, point by point."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry.batch.arrivals import Arrivals
from lorry.batch.request import Item
from lorry.options import canonical
from lorry.sweep.environment import describe_client, describe_server
from lorry.sweep.grid import AdapterMix, TokenMix, read_grid
from lorry.sweep.measure import measure_point
from lorry.sweep.plan import read_plan
from lorry.sweep.point import StudySetting, SweepPoint
from lorry.sweep.requests import PromptPool
from lorry.sweep.result import SweepResult
from lorry.sweep.study_file import append_point, resume_study

if TYPE_CHECKING:
    from lorry.client import AsyncClient

DEFAULT_MAX_TOKENS = 64
_SET_BY_THE_SWEEP = frozenset({"adapter", "max_tokens", "tag", "request_id", "token_times"})


async def sweep(
    client: AsyncClient,
    *,
    concurrency: int | Sequence[int] | None = None,
    arrivals: Arrivals | Sequence[Arrivals] | None = None,
    adapters: Sequence[AdapterMix] = (None,),
    max_tokens: int | Sequence[TokenMix] = (DEFAULT_MAX_TOKENS,),
    prompts: Sequence[Item] | None = None,
    requests_per_point: int | None = None,
    duration_s: float | None = None,
    warmup: int | None = None,
    seed: int = 0,
    journal: str | os.PathLike[str] | None = None,
    on_point: Callable[[SweepPoint], object] | None = None,
    **shared: Any,
) -> SweepResult:
    """Measure a server at every combination of load, adapters and `max_tokens`.

        result = await lorry.sweep(
            client, concurrency=[1, 4, 16], adapters=[None, ["pirate", "pricing"]],
            max_tokens=[16, [16, 256]], requests_per_point=200, ignore_eos=True,
        )
        result.plot("study.svg")

    The load is `concurrency`, requests in flight (a closed loop), or `arrivals`, schedules (an
    open one). An entry of `adapters` is a name, None for the base model, or a list that requests
    take in turn; one of `max_tokens` is a number or such a list, for long and short answers in one
    batch. At each point `warmup` requests come first (one per slot, or 16 in an open loop), then
    those that count, `requests_per_point` of them (100) or all that start in `duration_s` seconds.
    The load goes on until the last of these has ended.

    `prompts` are drawn in an order that `seed` fixes and that is the same at every point; without
    them every request has a prompt of its own that no cache knows. `shared` are options of
    `generate` but for those that the sweep sets. `journal` is a file that every point is written
    to; a rerun measures what is not in it, so the grid may grow. `on_point` is told of each point.

    Raises TypeError or ValueError for a wrong argument, ConfigError for a journal of another study,
    and the failure of a request if none succeeds and no other could. Other failures are counted.
    """
    points = read_grid(
        concurrency=concurrency, arrivals=arrivals, adapters=adapters, max_tokens=max_tokens
    )
    plan = read_plan(requests_per_point=requests_per_point, duration_s=duration_s, warmup=warmup)
    options = canonical(shared)
    for name in sorted(_SET_BY_THE_SWEEP & options.keys()):
        raise TypeError(f"{name} is set by the sweep itself")
    pool = PromptPool(prompts, seed=seed)
    setting = StudySetting(
        requests_per_point=plan.requests_per_point,
        duration_s=plan.duration_s,
        warmup=plan.warmup,
        seed=seed,
        prompts=pool.digest,
        options={name: _as_json(value) for name, value in sorted(options.items())},
    )
    path = None if journal is None else Path(journal)
    known = {} if path is None else {p.setting: p for p in resume_study(path, setting)}
    environment = {
        "client": describe_client(),
        "server": await describe_server(client._session),
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
