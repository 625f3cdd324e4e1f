"""Sends the requests of one user class: turns plans into attempts, records and locust's events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lorry_loadtest import metrics
from lorry_loadtest.attempt import attempt
from lorry_loadtest.attempted import Attempted, Sender, Tries, Verify, hash_of
from lorry_loadtest.catalog import Catalog
from lorry_loadtest.connection import Connection
from lorry_loadtest.endpoint import Endpoint, parse_endpoint
from lorry_loadtest.limits import Limits
from lorry_loadtest.options import WorkloadOptions
from lorry_loadtest.outcomes import AttemptFailed
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.routes import PATHS
from lorry_loadtest.run_state import RunState
from lorry_loadtest.schedule import Schedule, closed_stream_hash, plan_schedule
from lorry_loadtest.settings import LoadSettings, settings_of
from lorry_loadtest.wire import Wire


class Engine:
    """Shared by all users of one class in one process."""

    def __init__(
        self,
        settings: LoadSettings,
        *,
        run: RunState,
        catalog: Catalog,
        wire: Wire,
        limits: Limits,
        environment: Any,
        tries: Tries = attempt,
        source: int = 0,
    ) -> None:
        self.tries = tries
        self.settings = settings
        self.run = run
        self.workload = settings.workload(catalog, stream=run.stream, source=source)
        self.wire = wire
        self.limits = limits
        self._environment = environment
        self._next_indices: Iterator[int] = _indices_of(run)
        self._idle: list[Connection] = []

    @property
    def is_open_loop(self) -> bool:
        return self.settings.arrival is not None

    def schedule(self, *, until_s: float) -> Schedule:
        """The open loop's plan; ValueError when nothing arrives in that time."""
        assert self.settings.arrival is not None
        return plan_schedule(self.workload, self.settings.arrival, until_s=until_s)

    def stream_hash(self, *, until_s: float) -> str:
        """Of the whole plan of an open loop, of the beginning of a closed one's endless stream."""
        if self.is_open_loop:
            return self.schedule(until_s=until_s).stream_hash
        return closed_stream_hash(self.workload)

    def next_request(self) -> PlannedRequest:
        """A closed loop's: the next of this worker's indices, for whichever user comes first."""
        return self.workload.request_at(next(self._next_indices))

    def take_connection(self) -> Connection:
        """One that nobody uses, kept alive from before where there is one."""
        if self._idle:
            return self._idle.pop()
        return Connection(self.wire.endpoint, connect_timeout_s=self.limits.connect_s)

    def give_back(self, connection: Connection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def send(
        self,
        planned: PlannedRequest,
        *,
        connection: Connection,
        user: int = 0,
        verify: Verify | None = None,
        context: dict[str, Any] | None = None,
    ) -> Attempted:
        """One attempt: one record and exactly one `request` event, however it ends."""
        run = self.run
        run.enter()
        attempted = self.tries(
            planned,
            wire=self.wire,
            connection=connection,
            limits=self.limits,
            origin_ns=run.origin_ns,
            start_ns=run.start_ns,
            sender=Sender(self.settings.scenario, "run", run.level, run.worker, user),
            verify=lambda planned, text: self._complaint(planned, text, verify),
        )
        run.leave(attempted.record)
        fire_request(self._environment, attempted.record, context=context)
        return attempted

    def _complaint(self, planned: PlannedRequest, text: str, verify: Verify | None) -> str | None:
        known = self.run.answers.get(planned.canary or "")
        if known is not None and hash_of(text) != known:
            return f"canary {planned.canary} answered {hash_of(text)}, not the known {known}"
        return verify(planned, text) if verify and planned.canary is None else None


def fire_request(
    environment: Any, record: RequestRecord, *, context: dict[str, Any] | None = None
) -> None:
    """Tells locust of an attempt: the time to its last token, and its number of tokens."""
    failure = AttemptFailed(record.outcome, f"{record.outcome}: {record.error}")
    latency_ms = metrics.e2e_ms(record) if record.outcome == "ok" else None
    environment.events.request.fire(
        request_type="POST",
        name=PATHS[record.route],
        response_time=metrics.duration_ms(record) if latency_ms is None else latency_ms,
        response_length=record.completion_tokens,
        exception=None if record.outcome == "ok" else failure,
        context={
            **(context or {}),
            "adapter": record.adapter,
            "ttft_ms": metrics.ttft_ms(record),
            "tpot_ms": metrics.tpot_ms(record),
        },
    )


def engine_of(user_class: Any, environment: Any, run: RunState) -> Engine:
    """The class's engine in this run, made at the first call.

    Raises ValueError for a wrong setting and CatalogError when the server cannot be asked.
    """
    engine: Engine | None = run.engines.get(user_class)
    if engine is None:
        endpoint = endpoint_of(user_class, environment)
        shape = getattr(environment, "shape_class", None)
        settings = settings_of(user_class, run.options, shape=shape)
        api_key = api_key_of(user_class, run.options)
        catalog = _catalog(user_class, settings, run, endpoint, api_key=api_key)
        engine = run.engines[user_class] = Engine(
            settings,
            run=run,
            catalog=catalog,
            wire=wire_of(user_class, run.options, endpoint=endpoint, base_model=catalog.base_model),
            limits=user_class.limits,
            environment=environment,
            tries=user_class.tries,
            source=_place_of(user_class, environment),
        )
    return engine


def wire_of(
    user_class: Any, options: WorkloadOptions | None, *, endpoint: Endpoint, base_model: str
) -> Wire:
    """`base_model` is the server's, for a class that names none."""
    return Wire(
        endpoint=endpoint,
        base_model=user_class.base_model or base_model,
        api_key=api_key_of(user_class, options),
        ignore_eos=user_class.ignore_eos or bool(options and options.ignore_eos),
        states_tokens=user_class.states_tokens,
    )


def api_key_of(user_class: Any, options: WorkloadOptions | None) -> str | None:
    key: str | None = (options.api_key if options else None) or user_class.api_key
    return key


def _place_of(user_class: Any, environment: Any) -> int:
    """Two classes of a locustfile must not send the same requests at the same times."""
    classes = list(getattr(environment, "user_classes", ()))
    return classes.index(user_class) if user_class in classes else 0


def endpoint_of(user_class: Any, environment: Any) -> Endpoint:
    """The server of a class; ValueError when neither it nor locust names one."""
    return parse_endpoint(user_class.host or environment.host or "")


def _catalog(
    user_class: Any,
    settings: LoadSettings,
    run: RunState,
    endpoint: Endpoint,
    *,
    api_key: str | None,
) -> Catalog:
    """The server's list, which is not asked for where the class says all that it would tell."""
    if settings.adapters is not None and user_class.base_model is not None:
        return Catalog(user_class.base_model, ())
    return run.catalog(endpoint, api_key=api_key)


def _indices_of(run: RunState) -> Iterator[int]:
    index = run.worker
    while True:
        yield index
        index += run.num_workers
