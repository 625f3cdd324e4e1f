"""Two runs of one stream with the noise of real ones, of which the second may be slower."""

from __future__ import annotations

import random

from lorry_loadtest.gate.gate import GatedRun
from lorry_loadtest.request_figures import RequestFigures


def simulated_pair(
    seed: int,
    *,
    num_requests: int = 1200,
    slower: float = 0.0,
    spread: float = 0.08,
    noise: float = 0.03,
    drift: float = 0.02,
    persistence: float = 0.95,
) -> tuple[GatedRun, GatedRun]:
    """A baseline and a candidate whose TPOT is `slower` (0.05: 5 %).

    Requests differ by `spread` (the same on both sides), each measurement by `noise`, and each run
    wanders by `drift`, of which a share `persistence` is left one request later. All are standard
    deviations relative to a TPOT of 20 ms. One request in fifty meets a stall of its own.
    """
    stream = random.Random(f"stream/{seed}")
    plans = [stream.lognormvariate(0.0, spread) for _ in range(num_requests)]
    runs = []
    for side, factor in (("a", 1.0), ("b", 1.0 + slower)):
        rng = random.Random(f"{side}/{seed}")
        wander = rng.gauss(0.0, drift)
        step = drift * (1 - persistence**2) ** 0.5
        tpots = []
        for plan in plans:
            wander = persistence * wander + rng.gauss(0.0, step)
            stall = rng.uniform(1.05, 1.4) if rng.random() < 0.02 else 1.0
            tpots.append(20.0 * factor * plan * (1 + wander) * rng.lognormvariate(0, noise) * stall)
        runs.append(_run(tpots))
    return runs[0], runs[1]


def _run(tpots: list[float]) -> GatedRun:
    n = len(tpots)
    return GatedRun(
        window_s=n / 10,
        figures=RequestFigures(
            index=tuple(range(n)),
            plan=(1,) * n,
            ok=(True,) * n,
            tokens=(64,) * n,
            ttft=tuple(10 * tpot for tpot in tpots),
            tpot=tuple(tpots),
            e2e=tuple(73 * tpot for tpot in tpots),
            max_gap=tuple(2 * tpot for tpot in tpots),
            duration=tuple(73 * tpot for tpot in tpots),
        ),
    )
