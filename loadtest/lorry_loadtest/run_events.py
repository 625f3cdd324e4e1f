"""Hooks into locust's test events: prepares a run, paces an open loop, gathers what was recorded.

One for each environment, in the master, in every worker and where there is only one process. The
master prepares and gathers, workers send; a process alone does both.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import gevent

from lorry_loadtest.arrivals import Arrivals
from lorry_loadtest.catalog import CatalogError
from lorry_loadtest.distributed import MasterSide, RunOrder, WorkerSide
from lorry_loadtest.engine import Engine, engine_of
from lorry_loadtest.gathered import Gathered
from lorry_loadtest.health import Health
from lorry_loadtest.options import WorkloadOptions
from lorry_loadtest.pacer import Pacer
from lorry_loadtest.preparation import prepare
from lorry_loadtest.run_state import RunState
from lorry_loadtest.server_scrape import ServerScrape
from lorry_loadtest.spool import Spool

logger = logging.getLogger(__name__)

# An open loop without an end of its own and without -t is planned for so long.
_LONGEST_PLAN_S = 3600.0
# -t counts from when locust starts its users; the plan begins and ends a little inside of it.
_MARGIN_S = 1.0


def attach_run(environment: Any) -> None:
    """Once per environment; harmless when repeated."""
    if getattr(environment, "lorry_events", None) is None:
        environment.lorry_events = RunEvents(environment)


class RunEvents:
    """Owns what lives for one test: its state, its pacers, its scraper."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        runner = environment.runner
        self._master = MasterSide(runner) if _kind(runner) == "MasterRunner" else None
        self._worker = WorkerSide(runner) if _kind(runner) == "WorkerRunner" else None
        self._pacers: list[Pacer] = []
        self._pacing: list[gevent.Greenlet] = []
        self._health: Health | None = None
        self._scrape: ServerScrape | None = None
        self._gathered: Gathered | None = None
        self._spools: tempfile.TemporaryDirectory[str] | None = None
        events = environment.events
        events.test_start.add_listener(self._on_start)
        events.test_stopping.add_listener(self._on_stopping)
        events.test_stop.add_listener(self._on_stop)
        if self._worker is not None:
            events.report_to_master.add_listener(self._on_report)
        if self._master is not None:
            events.worker_report.add_listener(self._on_worker_report)
            # -t without a web page ends in `quit`, which does not wait for workers as `stop` does
            events.quitting.add_listener(self._on_quitting)

    @property
    def gathered(self) -> Gathered | None:
        """What the last test that ended here has left, where workers' records come together."""
        return self._gathered

    @property
    def _run(self) -> RunState:
        run: RunState = self._environment.lorry_run
        return run

    @property
    def _user_classes(self) -> list[Any]:
        return [c for c in self._environment.user_classes if hasattr(c, "canary_share")]

    def _on_start(self, **_: Any) -> None:
        options = _options_of(self._environment)
        order = self._worker.order if self._worker else RunOrder()
        self._gathered = None
        spool = self._new_spool() if self._worker else None
        run = RunState(
            worker=order.worker,
            num_workers=order.num_workers,
            origin_ns=order.origin_ns,
            options=options,
            spool=spool,
            answers=order.answers,
        )
        self._environment.lorry_run = run
        try:
            if self._worker is None:
                self._prepare(run)
            if self._master is None:
                self._begin(run)
        except (CatalogError, ValueError, OSError) as exc:
            # users find out for themselves when they start, and stop the test with the reason
            logger.error("%s", exc)

    def _prepare(self, run: RunState) -> None:
        """Where there is no master above: canaries, calibration, hashes, the server's metrics."""
        engines = [engine_of(c, self._environment, run) for c in self._user_classes]
        until_s = self._until_s()
        prepared = prepare(
            engines,
            until_s=until_s,
            options=getattr(self._environment, "parsed_options", None),
        )
        run.answers.update(prepared.answers)
        for line in prepared.lines:
            logger.info("%s", line)
        order = self._master.give_orders(run.answers) if self._master else None
        run.origin_ns = order.origin_ns if order else RunState().origin_ns
        self._gathered = Gathered(prepared)
        if engines:
            self._scrape = ServerScrape(engines[0].wire, origin_ns=run.origin_ns)
            self._scrape.start()

    def _begin(self, run: RunState) -> None:
        """Where requests are sent."""
        self._health = Health()
        self._pacers, self._pacing = [], []
        for user_class in self._user_classes:
            engine = engine_of(user_class, self._environment, run)
            if engine.is_open_loop:
                self._pace(engine, user_class)

    def _pace(self, engine: Engine, user_class: Any) -> None:
        template = user_class(self._environment)
        pacer = Pacer(
            engine.schedule(until_s=self._until_s()),
            run=engine.run,
            visit=lambda planned: template.visit(engine, planned),
        )
        self._pacers.append(pacer)
        self._pacing.append(gevent.spawn(pacer.run))

    def _until_s(self) -> float:
        """How long the plan of an open loop is."""
        options = getattr(self._environment, "parsed_options", None)
        given = getattr(options, "run_time", None)
        if given:
            return max(float(given) - _MARGIN_S, float(given) / 2)
        own = [c.duration_s for c in self._user_classes if c.duration_s]
        return float(max(own, default=_LONGEST_PLAN_S))

    def _on_stopping(self, **_: Any) -> None:
        if self._master is not None:
            self._master.stop_workers(timeout_s=(self._environment.stop_timeout or 0) + 30)
        elif hasattr(self._environment, "lorry_run"):
            self._run.stopping.set()

    def _on_stop(self, **_: Any) -> None:
        if not hasattr(self._environment, "lorry_run"):
            return
        if self._master is None:
            self._end_sending()
        if self._worker is None:
            self._gather()

    def _end_sending(self) -> None:
        gevent.joinall(self._pacing, timeout=5)
        timeout_s = float(self._environment.stop_timeout or 0)
        for pacer in self._pacers:
            pacer.drain(timeout_s=timeout_s)
        run = self._run
        for engine in run.engines.values():
            engine.close()
        if self._health is None:
            return
        report = self._health.stop(
            worker=run.worker,
            num_records=run.num_records,
            num_planned=run.num_planned,
            num_dropped=run.num_dropped,
            max_in_flight=run.max_in_flight,
            clock=stamp_clock(),
        )
        self._health = None
        if self._worker is not None and run.spool is not None:
            run.spool.close()
            self._worker.hand_over(run.spool, report)
        elif self._gathered is not None:
            self._gathered.add(run.records, report)

    def _gather(self) -> None:
        if self._scrape is not None:
            self._scrape.stop()
        if self._gathered is None:
            return
        if self._master is not None:
            for records, report in self._master.collect():
                self._gathered.add(records, report)
        if self._scrape is not None:
            self._gathered.scraped(self._scrape)
            self._scrape = None

    def _new_spool(self) -> Spool:
        self._spools = self._spools or tempfile.TemporaryDirectory(prefix="lorry-loadtest-")
        run_number = len(list(Path(self._spools.name).iterdir()))
        return Spool(Path(self._spools.name) / f"records-{run_number}.jsonl")

    def _on_report(self, client_id: str, data: dict[str, Any]) -> None:
        if hasattr(self._environment, "lorry_run"):
            data["lorry"] = self._run.live.take()

    def _on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        if "lorry" in data and hasattr(self._environment, "lorry_run"):
            self._run.live.merge(data["lorry"])

    def _on_quitting(self, **_: Any) -> None:
        self._environment.runner.stop()


def stamp_clock() -> tuple[Any, ...]:
    """The offsets of the wall clock that the stamping thread has seen; none without a thread."""
    from lorry_loadtest import stamping_thread  # here: without a connection there is no thread

    thread = stamping_thread._thread
    return () if thread is None else tuple(thread.clock.samples)


def _kind(runner: Any) -> str:
    """By name: importing locust's runners here would patch a process that only reads reports."""
    return type(runner).__name__


def _options_of(environment: Any) -> WorkloadOptions | None:
    """Those of a locustfile that has them on its command line; the web form may change them."""
    from lorry_loadtest.options import workload_options

    parsed = getattr(environment, "parsed_options", None)
    return workload_options(parsed) if hasattr(parsed, "adapter_mix") else None
