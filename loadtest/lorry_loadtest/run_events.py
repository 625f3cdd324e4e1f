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
from locust.runners import MasterRunner, WorkerRunner

from lorry_loadtest.catalog import CatalogError
from lorry_loadtest.distributed import MasterSide, RunOrder, WorkerSide
from lorry_loadtest.engine import Engine, endpoint_of, engine_of
from lorry_loadtest.gathered import Gathered
from lorry_loadtest.health import Health
from lorry_loadtest.judgeable import NotJudgeable, check_judgeable
from lorry_loadtest.options import WorkloadOptions, workload_options
from lorry_loadtest.pacer import Pacer
from lorry_loadtest.preparation import Prepared, prepare
from lorry_loadtest.run_state import RunState
from lorry_loadtest.server_scrape import ServerScrape
from lorry_loadtest.spool import Spool, merge_spools

logger = logging.getLogger(__name__)

# An open loop without an end of its own and without -t is planned for so long.
_LONGEST_PLAN_S = 3600.0
# -t counts from when locust starts its users; the plan begins and ends a little inside of it.
_MARGIN_S = 1.0
# So long after the event of its start locust takes a test for a running one.
_STARTED_S = 1.0
# Beyond the drain limit, for workers to hand over what they have.
_HAND_OVER_S = 30.0


def attach_run(environment: Any) -> None:
    """Once per environment; harmless when repeated."""
    if getattr(environment, "lorry_events", None) is None:
        environment.lorry_events = RunEvents(environment)


class RunEvents:
    """Owns what lives for one test: its pacers, its scraper, what is gathered at its end."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        runner = environment.runner
        self._master = MasterSide(runner) if isinstance(runner, MasterRunner) else None
        self._worker = WorkerSide(runner) if isinstance(runner, WorkerRunner) else None
        self._pacers: list[Pacer] = []
        self._pacing: list[Any] = []
        self._health: Health | None = None
        self._scrape: ServerScrape | None = None
        # The records and observations of the last test; None in a worker.
        self.gathered: Gathered | None = None
        self._prepared: Prepared | None = None
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None
        self._is_running = False
        events = environment.events
        events.test_start.add_listener(self._on_start)
        events.test_stopping.add_listener(self._on_stopping)
        events.test_stop.add_listener(self._on_stop)
        events.quitting.add_listener(self._on_quitting)
        if self._worker is not None:
            events.report_to_master.add_listener(self._on_report)
        if self._master is not None:
            events.worker_report.add_listener(self._on_worker_report)

    @property
    def _run(self) -> RunState:
        run: RunState = self._environment.lorry_run
        return run

    @property
    def _user_classes(self) -> list[Any]:
        return llm_classes(self._environment)

    def prepare_ahead(self) -> None:
        """For a test that begins at once: what -t counts shall not be spent on preparing it.

        Raises CatalogError when the server cannot be asked, ValueError for a wrong setting.
        """
        if self._worker is None:
            run = RunState(options=options_of(self._environment))
            self._prepared = self._prepare(run)

    def _on_start(self, **_: Any) -> None:
        self._is_running = True
        given = self._worker.take_order() if self._worker else RunOrder()
        order = given or RunOrder()
        self.gathered = None
        run = self._environment.lorry_run = RunState(
            worker=order.worker,
            num_workers=order.num_workers,
            origin_ns=order.origin_ns,
            options=options_of(self._environment),
            spool=self._new_spool(),
            answers=order.answers,
            takes_part=given is not None,
        )
        if given is None:
            logger.error("no orders from the master for this test: this worker sends nothing")
            return
        try:
            if self._worker is None:
                self._lead(run, self._prepared or self._prepare(run))
                self._prepared = None
            if self._master is None:
                self._begin(run)
        except NotJudgeable as exc:
            logger.error("%s", exc)
            # the users have nothing against it; locust does not stop what it is about to start
            gevent.spawn_later(_STARTED_S, self._environment.runner.stop)
        except (CatalogError, ValueError, OSError) as exc:
            # users find out for themselves when they start, and stop the test with the reason
            logger.error("%s", exc)

    def _prepare(self, run: RunState) -> Prepared:
        """Where there is no master above: hashes, canaries, calibration.

        Raises NotJudgeable where a report is wanted that cannot be.
        """
        engines = [engine_of(c, self._environment, run) for c in self._user_classes]
        parsed: Any = getattr(self._environment, "parsed_options", None)
        if self._wants_report:
            own = [c.slo for c in self._user_classes if c.slo and not parsed.slo]
            check_judgeable(engines, objectives=own)
        prepared = prepare(
            engines,
            until_s=self._until_s(),
            calibrates=self._wants_report and not parsed.no_calibration,
            num_streams=getattr(parsed, "num_users", None) or 1,
        )
        for engine in engines:
            engine.close()
        for line in prepared.lines:
            logger.info("%s", line)
        return prepared

    def _lead(self, run: RunState, prepared: Prepared) -> None:
        """Tells the workers to start, and begins to follow the server."""
        run.answers.update(prepared.answers)
        order = self._orders(run.answers)
        run.origin_ns = order.origin_ns
        self.gathered = Gathered(prepared)
        if self._wants_report and self._user_classes:
            wire = engine_of(self._user_classes[0], self._environment, run).wire
            self._scrape = ServerScrape(
                wire.endpoint, origin_ns=run.origin_ns, api_key=wire.api_key
            )
            self._scrape.start()

    def _orders(self, answers: dict[str, str]) -> RunOrder:
        if self._master is None:
            return RunOrder()
        return self._master.give_orders(answers, until_s=self._until_s())

    @property
    def _wants_report(self) -> bool:
        parsed = getattr(self._environment, "parsed_options", None)
        return bool(getattr(parsed, "llm_report", ""))

    @property
    def _server_host(self) -> str:
        """Empty when nobody named one; the users say so when they start."""
        try:
            return next((endpoint_of(c, self._environment).host for c in self._user_classes), "")
        except ValueError:
            return ""

    def _begin(self, run: RunState) -> None:
        """Where requests are sent."""
        self._health = Health(self._server_host)
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
        """How long the plan of an open loop is; workers are not told of -t, but of this."""
        if self._worker is not None:
            return self._worker.order.until_s
        parsed = getattr(self._environment, "parsed_options", None)
        given = getattr(parsed, "run_time", None)
        if given:
            return max(float(given) - _MARGIN_S, float(given) / 2)
        own = [c.duration_s for c in self._user_classes if c.duration_s]
        return float(max(own, default=_LONGEST_PLAN_S))

    def _on_stopping(self, **_: Any) -> None:
        if not hasattr(self._environment, "lorry_run"):
            return
        if self._master is None:
            self._run.stopping.set()
            return
        # Here rather than at `test_stop`: -t without a web page ends in `quit`, which fires that
        # before the workers have been told to stop.
        self._master.stop_workers(
            timeout_s=float(self._environment.stop_timeout or 0) + _HAND_OVER_S
        )

    def _on_quitting(self, **_: Any) -> None:
        """Ctrl-C. Locust takes its exit code and a worker says goodbye to its master before they end
        a running test: then the report's code and the worker's records would come too late."""
        if self._is_running and self._master is None:
            self._environment.runner.stop()

    def _on_stop(self, **_: Any) -> None:
        self._is_running = False
        if not hasattr(self._environment, "lorry_run"):
            return
        if self._master is None:
            self._end_sending()
        if self._worker is None:
            self._gather()

    def _end_sending(self) -> None:
        gevent.joinall(self._pacing, timeout=5)
        for pacer in self._pacers:
            pacer.drain(timeout_s=float(self._environment.stop_timeout or 0))
        run = self._run
        for engine in run.engines.values():
            engine.close()
        if self._health is None:
            return
        report = self._health.stop(run)
        self._health = None
        assert run.spool is not None  # only a master has none, and it sends nothing
        run.spool.close()
        if self._worker is not None:
            self._worker.hand_over(run.spool, report)
        elif self.gathered is not None:
            self.gathered.add(merge_spools([run.spool.path]), report)

    def _gather(self) -> None:
        if self.gathered is None:
            return
        if self._scrape is not None:
            self._scrape.stop()
            self.gathered.scraped(self._scrape)
            self._scrape = None
        if self._master is not None:
            self.gathered.num_workers = self._master.num_workers
            for records, report in self._master.collect():
                self.gathered.add(records, report)

    def _new_spool(self) -> Spool | None:
        """Where records are made; a master makes none."""
        if self._master is not None:
            return None
        if self._worker is not None:
            return self._worker.new_spool(self._folder())
        return Spool(self._folder() / "records.jsonl")

    def _folder(self) -> Path:
        """For the spool of a process alone, or of a worker that does not see its master's."""
        if self._own_folder is None:
            self._own_folder = tempfile.TemporaryDirectory(prefix="lorry-loadtest-")
        return Path(self._own_folder.name)

    def _on_report(self, client_id: str, data: dict[str, Any]) -> None:
        if hasattr(self._environment, "lorry_run"):
            data["lorry"] = self._run.live.take()

    def _on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        if "lorry" in data and hasattr(self._environment, "lorry_run"):
            self._run.live.merge(data["lorry"])


def llm_classes(environment: Any) -> list[Any]:
    """The LLM users among those of the locustfile."""
    return [c for c in environment.user_classes if hasattr(c, "canary_share")]


def options_of(environment: Any) -> WorkloadOptions | None:
    """Those of a locustfile that has ours on its command line; the web form may change them."""
    parsed: Any = getattr(environment, "parsed_options", None)
    return workload_options(parsed) if hasattr(parsed, "adapter_mix") else None
