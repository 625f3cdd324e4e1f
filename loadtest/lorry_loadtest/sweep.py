"""Runs the levels of a sweep one after the other, each as a bounded locust run in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from locust.env import Environment

from lorry_loadtest.catalog import Catalog
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.options import WorkloadOptions
from lorry_loadtest.run_state import RunState
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.users import CommandLineUser

_PROGRESS_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """Seconds: `warmup_s` and then `duration_s` at each level, then at most `drain_s` to finish."""

    levels: tuple[int, ...]
    warmup_s: float
    duration_s: float
    drain_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a level is; `phase` is `warm-up`, `measure` or `drain`."""

    level: int
    phase: str
    elapsed_s: float
    state: RunState


def run_sweep(
    plan: SweepPlan,
    *,
    endpoint: Endpoint,
    options: WorkloadOptions,
    catalog: Catalog,
    on_progress: Callable[[Progress], None],
    on_level: Callable[[LevelRun], None],
) -> None:
    """Hands every finished level to `on_level`; KeyboardInterrupt stops the current one first."""
    origin_ns = time.perf_counter_ns()
    for level in plan.levels:
        state = RunState(level=level, origin_ns=origin_ns, options=options, catalog=catalog)
        on_level(_run_level(plan, state=state, endpoint=endpoint, on_progress=on_progress))


def _run_level(
    plan: SweepPlan,
    *,
    state: RunState,
    endpoint: Endpoint,
    on_progress: Callable[[Progress], None],
) -> LevelRun:
    environment = Environment(
        user_classes=[CommandLineUser], host=str(endpoint), stop_timeout=plan.drain_s
    )
    environment.lorry_run = state
    runner = environment.create_local_runner()
    start_ns = state.now_ns
    phases = _Phases(state, start_ns=start_ns, on_progress=on_progress)
    reporter = gevent.spawn(phases.report_for_ever)
    try:
        runner.start(state.level, spawn_rate=state.level)  # all users at once
        gevent.sleep(plan.warmup_s)
        phases.current = "measure"
        window_start_ns, cpu_start_s = state.now_ns, time.process_time()
        gevent.sleep(plan.duration_s)
        window_end_ns, cpu_end_s = state.now_ns, time.process_time()
        phases.current = "drain"
        runner.stop()  # users finish the request they are in, for at most drain_s
    except KeyboardInterrupt:
        environment.stop_timeout = 0  # whoever interrupts does not want to wait for the drain
        raise
    finally:
        reporter.kill()
        runner.quit()
    return LevelRun(
        concurrency=state.level,
        start_ns=start_ns,
        window_start_ns=window_start_ns,
        window_end_ns=window_end_ns,
        drained_ns=state.now_ns,
        client_cpu_share=(cpu_end_s - cpu_start_s) * 1e9 / (window_end_ns - window_start_ns),
        records=tuple(state.records),
    )


class _Phases:
    """Tells how far the level is, twice a second."""

    def __init__(
        self, state: RunState, *, start_ns: int, on_progress: Callable[[Progress], None]
    ) -> None:
        self.current = "warm-up"
        self._state = state
        self._start_ns = start_ns
        self._on_progress = on_progress

    def report_for_ever(self) -> None:
        """Until its greenlet is killed with the end of the level."""
        while True:
            elapsed_s = (self._state.now_ns - self._start_ns) / 1e9
            self._on_progress(Progress(self._state.level, self.current, elapsed_s, self._state))
            gevent.sleep(_PROGRESS_INTERVAL_S)
