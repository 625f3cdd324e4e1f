"""One level measured by the load test's own client against a mock server, without locust."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import gevent

from lorry_loadtest.arrivals import parse_arrival
from lorry_loadtest.calibration import mock_process
from lorry_loadtest.catalog import Catalog
from lorry_loadtest.declared import declared_load
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.engine import Engine
from lorry_loadtest.gathered import Gathered
from lorry_loadtest.health import Health
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.limits import Limits
from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.pacer import Pacer
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.preparation import prepare
from lorry_loadtest.run_facts import RunFacts
from lorry_loadtest.run_state import RunState
from lorry_loadtest.server_scrape import ServerScrape
from lorry_loadtest.settings import LoadSettings
from lorry_loadtest.wire import Wire
from tests.support.fake_locust import FakeEnvironment
from tests.support.load_settings import LOAD
from tests.support.mock_llm_server import RunningMock, running_mock


@dataclass(frozen=True, slots=True)
class Measured:
    """A load of `users`, or of `arrival`, and what is wrong with it.

    `while_running` is called in the middle, beside the load; `user_code` may change a request before
    it is sent. A server in a process of its own does not stop with the interpreter of the client.
    """

    server: Callable[[], MockServer] = MockServer
    settings: LoadSettings = LOAD
    arrival: str = ""
    users: int = 8
    duration_s: float = 0.5
    drain_s: float = 5.0
    ignore_eos: bool = False
    own_process: bool = False
    user_code: Callable[[PlannedRequest], PlannedRequest] = lambda planned: planned
    on_engine: Callable[[Engine], None] = lambda engine: None
    while_running: Callable[[RunningMock, Engine], None] = field(default=lambda mock, engine: None)

    def run(self) -> LevelRun:
        """Its whole time is the window: there is no warm-up."""
        server = self.server()
        if self.own_process:
            times = ("--first-ms", str(server.times.first_ms), "--gap-ms", str(server.times.gap_ms))
            with mock_process(*times) as url:
                return _Level(self, RunningMock(url, 0, server)).run()
        with running_mock(server) as mock:
            return _Level(self, mock).run()


class _Level:
    def __init__(self, measured: Measured, mock: RunningMock) -> None:
        settings = measured.settings
        if measured.arrival:
            settings = replace(settings, arrival=parse_arrival(measured.arrival))
        self._measured = measured
        self._mock = mock
        self._engine = Engine(
            settings,
            run=RunState(),
            catalog=Catalog("mock-base", mock.server.adapters),
            wire=Wire(
                endpoint=parse_endpoint(mock.url),
                base_model="mock-base",
                ignore_eos=measured.ignore_eos,
            ),
            limits=Limits(),
            environment=FakeEnvironment(),
        )
        measured.on_engine(self._engine)

    def run(self) -> LevelRun:
        measured, engine = self._measured, self._engine
        state = engine.run
        prepared = prepare([engine], until_s=measured.duration_s, calibrates=False)
        state.answers.update(prepared.answers)
        scrape = ServerScrape(engine.wire.endpoint, origin_ns=state.origin_ns)
        scrape.start()
        health = Health(engine.wire.endpoint.host)
        start_ns = state.start_ns = state.now_ns
        load = self._pace if engine.is_open_loop else self._users
        beside = gevent.spawn_later(
            measured.duration_s / 2, measured.while_running, self._mock, engine
        )
        load()
        beside.kill()
        engine.close()
        scrape.stop()
        gathered = Gathered(prepared, start_ns=start_ns)
        gathered.scraped(scrape)
        gathered.add(state.records, health.stop(state))
        return LevelRun(
            concurrency=state.max_in_flight if engine.is_open_loop else measured.users,
            rate_per_s=None
            if state.num_planned is None
            else state.num_planned / measured.duration_s,
            start_ns=start_ns,
            window_start_ns=start_ns,
            window_end_ns=start_ns + round(measured.duration_s * 1e9),
            drained_ns=state.now_ns,
            client_cpu_share=0.0,
            records=tuple(gathered.records),
            facts=RunFacts(
                observations=gathered.observations(),
                declared=declared_load(engine, until_s=measured.duration_s),
            ),
        )

    def _visit(self, planned: PlannedRequest) -> None:
        connection = self._engine.take_connection()
        self._engine.send(self._measured.user_code(planned), connection=connection)
        self._engine.give_back(connection)

    def _pace(self) -> None:
        pacer = Pacer(
            self._engine.schedule(until_s=self._measured.duration_s),
            run=self._engine.run,
            visit=self._visit,
        )
        pacer.run()
        pacer.drain(timeout_s=self._measured.drain_s)

    def _users(self) -> None:
        users = [gevent.spawn(self._use) for _ in range(self._measured.users)]
        gevent.sleep(self._measured.duration_s)
        self._engine.run.stopping.set()
        gevent.joinall(users, timeout=self._measured.drain_s)
        gevent.killall(users)

    def _use(self) -> None:
        connection = self._engine.take_connection()
        while not self._engine.run.stopping.is_set():
            planned = self._measured.user_code(self._engine.next_request())
            attempted = self._engine.send(planned, connection=connection)
            if attempted.interrupted is not None:
                raise attempted.interrupted
            gevent.sleep(0)
        connection.close()
