"""Studies of concurrency: the same requests at every load, and what became of each.

`lorry.sweep` is the function; what it needs is imported when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from lorry.batch.arrivals import Arrivals
    from lorry.batch.request import Item
    from lorry.client import AsyncClient
    from lorry.sweep.grid import AdapterMix, TokenMix
    from lorry.sweep.point import SweepPoint
    from lorry.sweep.result import SweepResult


async def sweep(
    client: AsyncClient,
    *,
    concurrency: int | Sequence[int] | None = None,
    arrivals: Arrivals | Sequence[Arrivals] | None = None,
    adapters: Sequence[AdapterMix] = (None,),
    max_tokens: int | Sequence[TokenMix] = (64,),
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
    from lorry.sweep.run import run_sweep

    return await run_sweep(
        client,
        concurrency=concurrency,
        arrivals=arrivals,
        adapters=adapters,
        max_tokens=max_tokens,
        prompts=prompts,
        requests_per_point=requests_per_point,
        duration_s=duration_s,
        warmup=warmup,
        seed=seed,
        journal=journal,
        on_point=on_point,
        shared=shared,
    )
