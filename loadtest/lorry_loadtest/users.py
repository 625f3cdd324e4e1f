"""The locust users: `LLMUser` for locustfiles, and one that does what the command line says."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gevent
from locust import User, task
from locust.exception import StopTest

from lorry_loadtest import metrics
from lorry_loadtest.adapter_mix import mix_of
from lorry_loadtest.attempt import Attempted, attempt
from lorry_loadtest.catalog import CatalogError
from lorry_loadtest.connection import Connection
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.lengths import Lengths, parse_lengths
from lorry_loadtest.limits import Limits
from lorry_loadtest.outcomes import AttemptFailed
from lorry_loadtest.prompts import FixedPrompts, RandomWords, prompts_of
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.run_state import RunState
from lorry_loadtest.wire import PATHS, Route, Wire
from lorry_loadtest.workload import Place, PlannedRequest, Workload

logger = logging.getLogger(__name__)

# A server that refuses at once must not be hammered, nor the records filled, by users that have
# nothing to wait for.
PAUSE_AFTER_FAILURE_S = 0.5


class LLMUser(User):  # type: ignore[misc]  # locust's own types are not read
    """Streams completions, one after the other, and stamps every token as its bytes arrive.

    Subclass it in a locustfile, set what differs from the defaults, and write a `@task` that calls
    `generate`. `adapters` None means those that the server lists; a name None in it is the base
    model. `max_tokens` and the words of a prompt are drawn from their ranges. The seed, the user's
    index and the request's index decide every request.
    """

    abstract = True

    adapters: Mapping[str | None, float] | Sequence[str | None] | None = None
    base_share: float = 0.0
    base_model: str | None = None
    prompts: RandomWords | FixedPrompts | Sequence[str] = RandomWords()
    max_tokens: Lengths | str | int = Lengths(16, 96)
    seed: int = 7
    route: Route = "completions"
    api_key: str | None = None
    ignore_eos: bool = False
    states_tokens: bool = True
    limits: Limits = Limits()

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._run = run_state_of(environment)
        self._index = self._run.admit_user()
        self._num_requests = 0
        self._workload: Workload | None = None
        self._wire: Wire | None = None
        self._connection: Connection | None = None

    def on_start(self) -> None:
        """Reads the class's settings and asks the server for what they leave open."""
        endpoint = parse_endpoint(self.host or self.environment.host or "")
        adapters, base_model = self.adapters, self.base_model
        if adapters is None or base_model is None:
            try:
                catalog = self._run.catalog(endpoint, api_key=self.api_key)
            except CatalogError as exc:
                raise StopTest(str(exc)) from exc
            adapters = catalog.adapters if adapters is None else adapters
            base_model = base_model or catalog.base_model
        self._workload = Workload(
            seed=self.seed,
            adapters=mix_of(adapters, base_share=self.base_share),
            prompts=prompts_of(self.prompts),
            max_tokens=_lengths_of(self.max_tokens),
        )
        self._wire = Wire(
            endpoint=endpoint,
            base_model=base_model,
            route=self.route,
            api_key=self.api_key,
            ignore_eos=self.ignore_eos,
            states_tokens=self.states_tokens,
        )
        self._connection = Connection(endpoint, connect_timeout_s=self.limits.connect_s)

    def on_stop(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def verify(self, planned: PlannedRequest, text: str) -> str | None:
        """Override it to say what is wrong with an answer; that fails it as `wrong_output`."""
        return None

    def generate(self) -> Attempted:
        """Sends the next request of this user's seeded sequence."""
        return self.send(self.next_request())

    def next_request(self) -> PlannedRequest:
        """Draws the next request; `dataclasses.replace` changes it before it is sent."""
        assert self._workload is not None, "the user has not started"
        place = Place(self._run.level, self._run.worker, self._index, self._num_requests)
        self._num_requests += 1
        return self._workload.request_at(place)

    def send(self, planned: PlannedRequest) -> Attempted:
        """One attempt: one record and exactly one `request` event, however it ends."""
        assert self._wire is not None, "the user has not started"
        assert self._connection is not None, "the user has not started"
        attempted = attempt(
            planned,
            wire=self._wire,
            connection=self._connection,
            limits=self.limits,
            origin_ns=self._run.origin_ns,
            verify=self.verify,
        )
        self._run.records.append(attempted.record)
        self._fire(attempted.record)
        if attempted.interrupted is not None:
            raise attempted.interrupted
        if attempted.record.outcome != "ok":
            gevent.sleep(PAUSE_AFTER_FAILURE_S)
        return attempted

    def _fire(self, record: RequestRecord) -> None:
        failure = AttemptFailed(record.outcome, f"{record.outcome}: {record.error}")
        latency_ms = metrics.e2e_ms(record) if record.outcome == "ok" else None
        self.environment.events.request.fire(
            request_type="POST",
            name=PATHS[self.route],
            response_time=metrics.duration_ms(record) if latency_ms is None else latency_ms,
            response_length=record.completion_tokens,
            exception=None if record.outcome == "ok" else failure,
            context={
                **self.context(),
                "adapter": record.adapter,
                "ttft_ms": metrics.ttft_ms(record),
                "tpot_ms": metrics.tpot_ms(record),
            },
        )


class CommandLineUser(LLMUser):
    """Does what the options of the command line say, back to back."""

    def on_start(self) -> None:
        options = self._run.options
        assert options is not None, "the test was started without its options"
        self.adapters = options.adapters
        self.base_share = options.base_share
        self.prompts = options.prompts
        self.max_tokens = options.max_tokens
        self.seed = options.seed
        self.route = options.route
        self.ignore_eos = options.ignore_eos
        self.api_key = options.api_key
        super().on_start()

    @task  # type: ignore[untyped-decorator]  # locust's own types are not read
    def ask(self) -> None:
        self.generate()


def run_state_of(environment: Any) -> RunState:
    """The state that the environment's users share, made for the first of them."""
    state = getattr(environment, "lorry_run", None)
    if state is None:
        worker = getattr(environment.runner, "worker_index", 0)
        state = environment.lorry_run = RunState(worker=max(0, worker))
    return cast(RunState, state)  # the attribute is set here and by those who start a test


def _lengths_of(value: Lengths | str | int) -> Lengths:
    return value if isinstance(value, Lengths) else parse_lengths(str(value))
