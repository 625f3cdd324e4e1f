"""Runs one level of load after the other, each as a bounded locust run in this process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment

from lorry_loadtest.arrivals import at_rate
from lorry_loadtest.catalog import Catalog
from lorry_loadtest.declared import declared_load
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.engine import Engine, engine_of, wire_of
from lorry_loadtest.gathered import Gathered
from lorry_loadtest.health import Health
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.load_points import LoadPoint
from lorry_loadtest.options import WorkloadOptions
from lorry_loadtest.pacer import Pacer
from lorry_loadtest.preparation import prepare
from lorry_loadtest.run_facts import LocustTable, RunFacts
from lorry_loadtest.run_state import RunState
from lorry_loadtest.server_scrape import ServerScrape
from lorry_loadtest.settings import settings_of
from lorry_loadtest.spool import Spool, merge_spools
from lorry_loadtest.users import LLMUser

_PROGRESS_INTERVAL_S = 0.5
# What a calibration of an open loop would open at once is its own plan's to say.
_STREAMS_UNLESS_SAID = 8


@dataclass(frozen=True, slots=True)
class LevelTimes:
    """Seconds: `warmup_s` and then `duration_s` at each level, then at most `drain_s` to finish."""

    warmup_s: float
    duration_s: float
    drain_s: float

    @property
    def loaded_s(self) -> float:
        return self.warmup_s + self.duration_s


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a level is; `phase` is `prepare`, `warm-up`, `measure` or `drain`."""

    phase: str
    elapsed_s: float
    state: RunState


class LocalMeasure:
    """Measures a load point with users of one class; made once for all levels of a sweep.

    The client is calibrated before the first level, if `calibrates`. KeyboardInterrupt stops the
    level that it comes in at once. ValueError and CatalogError say what is wrong with the load.
    """

    def __init__(
        self,
        times: LevelTimes,
        *,
        user_class: type[LLMUser],
        endpoint: Endpoint,
        options: WorkloadOptions,
        catalog: Catalog,
        calibrates: bool,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._times = times
        self._user_class = user_class
        self._endpoint = endpoint
        self._options = options
        self._catalog = catalog
        self._calibrates = calibrates
        self._on_progress = on_progress
        self._origin_ns = time.perf_counter_ns()
        self._num_measured = 0
        self._calibration: Any = None
        self.settings = settings_of(user_class, options)
        self.workload = self.settings.workload(catalog)
        self.wire = wire_of(user_class, options, endpoint=endpoint, base_model=catalog.base_model)

    @property
    def has_own_plan(self) -> bool:
        """Whether the class or the options say when requests arrive."""
        return self.settings.arrival is not None

    def __call__(self, point: LoadPoint) -> LevelRun:
        """Users in a closed loop, or arrivals at one rate."""
        if point.rate_per_s is not None:
            arrival = at_rate(self.settings.arrival, point.rate_per_s)
            options = replace(self._options, arrival=arrival)
            run = self._measure(options, user_class=self._user_class, num_users=0, point=point)
            return replace(run, rate_per_s=point.rate_per_s, descending=point.descending)
        assert point.concurrency is not None
        run = self._measure(
            replace(self._options, arrival=""),
            user_class=_closed(self._user_class),
            num_users=point.concurrency,
            point=point,
        )
        return replace(run, descending=point.descending)

    def as_planned(self, *, stream: int | None = None) -> LevelRun:
        """The open loop of the class or the options as it stands; `stream` is the load's place in
        the run that it repeats."""
        index = self._num_measured if stream is None else stream
        point = LoadPoint(rate_per_s=1.0, index=index)
        return self._measure(self._options, user_class=self._user_class, num_users=0, point=point)

    def _measure(
        self,
        options: WorkloadOptions,
        *,
        user_class: type[LLMUser],
        num_users: int,
        point: LoadPoint,
    ) -> LevelRun:
        environment = Environment(
            user_classes=[user_class], host=str(self._endpoint), stop_timeout=self._times.drain_s
        )
        with tempfile.TemporaryDirectory(prefix="lorry-loadtest-") as folder:
            state = RunState(
                level=num_users,
                stream=point.index,
                origin_ns=self._origin_ns,
                options=options,
                catalog=self._catalog,
                spool=Spool(Path(folder) / "records.jsonl"),
            )
            environment.lorry_run = state
            environment.create_local_runner()
            engine = engine_of(user_class, environment, state)
            level = _Level(self._times, environment, engine, user_class, self._on_progress)
            calibrates = self._calibrates and self._num_measured == 0
            run = level.run(num_users, calibrates=calibrates, calibration=self._calibration)
        self._calibration = run.facts.observations.calibration
        self._num_measured += 1
        return run


class _Level:
    """One level from its preparation to its end."""

    def __init__(
        self,
        times: LevelTimes,
        environment: Environment,
        engine: Engine,
        user_class: type[LLMUser],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._times = times
        self._environment = environment
        self._engine = engine
        self._user_class = user_class
        self._on_progress = on_progress
        self._state = engine.run
        self._phase = "prepare"
        self._start_ns = self._state.now_ns
        self._pacer: Pacer | None = None
        self._pacing: Any = None

    def run(self, num_users: int, *, calibrates: bool, calibration: Any) -> LevelRun:
        """`calibration` is that of an earlier level."""
        state, times, engine = self._state, self._times, self._engine
        reporter = gevent.spawn(self._report_for_ever)
        scrape = ServerScrape(
            engine.wire.endpoint, origin_ns=state.origin_ns, api_key=engine.wire.api_key
        )
        try:
            prepared = prepare(
                [engine],
                until_s=times.loaded_s,
                calibrates=calibrates,
                num_streams=num_users or _STREAMS_UNLESS_SAID,
            )
            if prepared.calibration is None:
                prepared = replace(prepared, calibration=calibration)
            state.answers.update(prepared.answers)
            scrape.start()
            health = Health(engine.wire.endpoint.host)
            start_ns = state.start_ns = self._start_ns = state.now_ns
            self._phase = "warm-up"
            self._begin(num_users)
            gevent.sleep(times.warmup_s)
            self._phase = "measure"
            window_start_ns, cpu_start_s = state.now_ns, time.process_time()
            gevent.sleep(times.duration_s)
            window_end_ns, cpu_end_s = state.now_ns, time.process_time()
            self._phase = "drain"
            self._end()  # users finish the request they are in, for at most drain_s
        except KeyboardInterrupt:
            self._environment.stop_timeout = 0  # who interrupts does not want to wait
            raise
        finally:
            reporter.kill()
            state.stopping.set()
            if self._pacer is not None:
                self._pacer.drain(timeout_s=0)
            self._environment.runner.quit()
            engine.close()
        scrape.stop()
        gathered = Gathered(prepared, start_ns=start_ns)
        gathered.scraped(scrape)
        assert state.spool is not None  # LocalMeasure has given it one
        state.spool.close()
        gathered.add(merge_spools([state.spool.path]), health.stop(state))
        return LevelRun(
            concurrency=num_users or state.max_in_flight,
            stream=state.stream,
            rate_per_s=None if state.num_planned is None else state.num_planned / times.loaded_s,
            start_ns=start_ns,
            window_start_ns=window_start_ns,
            window_end_ns=window_end_ns,
            drained_ns=state.now_ns,
            client_cpu_share=(cpu_end_s - cpu_start_s) * 1e9 / (window_end_ns - window_start_ns),
            records=tuple(gathered.records),
            facts=RunFacts(
                observations=gathered.observations(),
                declared=declared_load(engine, until_s=times.loaded_s),
                locust=locust_table(self._environment),
            ),
        )

    def _begin(self, num_users: int) -> None:
        if not self._engine.is_open_loop:
            self._environment.runner.start(num_users, spawn_rate=num_users)  # all users at once
            return
        template = self._user_class(self._environment)
        self._pacer = Pacer(
            self._engine.schedule(until_s=self._times.loaded_s),
            run=self._state,
            visit=lambda planned: template.visit(self._engine, planned),
        )
        self._pacing = gevent.spawn(self._pacer.run)

    def _end(self) -> None:
        if self._pacer is not None:
            self._pacing.join(timeout=1.0)  # its last request is due before the window ends
        self._state.stopping.set()
        if self._pacer is not None:
            self._pacer.drain(timeout_s=self._times.drain_s)
        self._environment.runner.stop()

    def _report_for_ever(self) -> None:
        """Until its greenlet is killed with the end of the level."""
        while True:
            elapsed_s = (self._state.now_ns - self._start_ns) / 1e9
            self._on_progress(Progress(self._phase, elapsed_s, self._state))
            gevent.sleep(_PROGRESS_INTERVAL_S)


def locust_table(environment: Environment) -> LocustTable:
    """What locust counted of the same attempts."""
    total = environment.stats.total
    if not total.num_requests:
        return LocustTable(num_requests=0)
    return LocustTable(
        num_requests=total.num_requests,
        p50_ms=float(total.get_response_time_percentile(0.5)),
        p95_ms=float(total.get_response_time_percentile(0.95)),
    )


def _closed(user_class: type[LLMUser]) -> type[LLMUser]:
    """The same class without its arrivals: its tasks are run by users, one after the other."""
    if user_class.arrival is None:
        return user_class
    return type(user_class.__name__, (user_class,), {"arrival": None})
