"""The locust users: `LLMUser` for locustfiles, and one that does what the command line says."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gevent
from gevent import GreenletExit
from locust import User, events, task
from locust.exception import InterruptTaskSet, RescheduleTask, StopTest, StopUser

from lorry_loadtest.adapter_mix import AdapterMix
from lorry_loadtest.arrivals import Arrivals, TraceArrivals
from lorry_loadtest.attempt import attempt
from lorry_loadtest.attempted import Attempted, Tries
from lorry_loadtest.catalog import CatalogError
from lorry_loadtest.connection import Connection
from lorry_loadtest.engine import Engine, engine_of
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.limits import Limits
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.prompts import PromptSource, RandomWords
from lorry_loadtest.routes import Route
from lorry_loadtest.run_events import attach_run
from lorry_loadtest.run_state import RunState
from lorry_loadtest.sdk_attempt import sdk_attempt
from lorry_loadtest.workload import Variant

logger = logging.getLogger(__name__)

# A server that refuses at once must not be hammered, nor the records filled, by users that have
# nothing to wait for.
PAUSE_AFTER_FAILURE_S = 0.5


class LLMUser(User):  # type: ignore[misc]  # locust's own types are not read
    """Streams answers, and stamps every token as its bytes arrive.

    Subclass it in a locustfile, set what differs from the defaults, and write a `@task` that calls
    `generate`. `adapters` None means those that the server lists; a name None in it is the base
    model. `lengths` are those of the answers (`max_tokens`). The seed and a request's index in the
    run's one stream decide what it is; which user takes it does not.

    Without `arrival` each of locust's users sends one request after the other: a closed loop. With
    `arrival`, such as `poisson:6`, requests are sent when they are due, each by a copy of the user
    that runs one task, and locust's number of users means nothing.

    With `variants` each request is one of these kinds. `slo` is what the report judges the run by, `canary_share` of the requests have known answers,
    `patience_s` is after how long users leave, on the mean, and `length_scale` stretches a trace.
    """

    abstract = True

    scenario: str = ""
    arrival: str | Arrivals | TraceArrivals | None = None
    adapters: AdapterMix | Mapping[str | None, float] | Sequence[str | None] | None = None
    adapter_mix: str = ""
    base_share: float = 0.0
    base_model: str | None = None
    prompts: PromptSource | Sequence[str] = RandomWords()
    lengths: Lengths | str | int = Lengths(16, 96)
    variants: Sequence[Variant] = ()
    slo: str = ""
    seed: int = 7
    route: Route = "completions"
    api_key: str | None = None
    ignore_eos: bool = False
    states_tokens: bool = True
    canary_share: float = 0.0
    patience_s: float | None = None
    length_scale: float = 1.0
    duration_s: float | None = None
    limits: Limits = Limits()
    tries: Tries = staticmethod(attempt)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._run = run_state_of(environment)
        self._index = self._run.admit_user()
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._arrival: PlannedRequest | None = None

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "the user has not started"
        return self._engine

    def on_start(self) -> None:
        """Asks the server for what the class leaves open."""
        try:
            self._engine = engine_of(type(self), self.environment, self._run)
        except (CatalogError, ValueError, OSError) as exc:
            raise StopTest(str(exc)) from exc
        run = self._run
        if self._engine.is_open_loop or not run.takes_part or run.stopping.is_set():
            # A pacer sends; locust's users are there because locust wants some. It starts some even
            # when a test ends: a master that loses a worker gives its users to the others.
            run.stopping.wait()
            raise GreenletExit  # locust logs other exceptions from here as errors
        self._connection = self._engine.take_connection()

    def on_stop(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def verify(self, planned: PlannedRequest, text: str) -> str | None:
        """Override it to say what is wrong with an answer; that fails it as `wrong_output`."""
        return None

    def generate(self) -> Attempted:
        """Sends the next request of the seeded stream."""
        return self.send(self.next_request())

    def next_request(self) -> PlannedRequest:
        """The next request; `dataclasses.replace` changes it before it is sent.

        In an open loop this is the arrival that the task was started for, once.
        """
        if not self.engine.is_open_loop:
            return self.engine.next_request()
        if self._arrival is None:
            raise RuntimeError("in an open loop a task sends one request: its arrival")
        arrival, self._arrival = self._arrival, None
        return arrival

    def send(self, planned: PlannedRequest) -> Attempted:
        """One attempt: one record and exactly one `request` event, however it ends."""
        assert self._connection is not None, "the user has not started"
        attempted = self.engine.send(
            planned,
            connection=self._connection,
            user=self._index,
            verify=self.verify,
            context=self.context(),
        )
        if attempted.interrupted is not None:
            raise attempted.interrupted
        if attempted.record.outcome != "ok" and not self.engine.is_open_loop:
            gevent.sleep(PAUSE_AFTER_FAILURE_S)
        return attempted

    def visit(self, engine: Engine, planned: PlannedRequest) -> None:
        """Runs one task for one arrival of an open loop, on a copy with its own connection.

        A task that fails is told of as locust tells of its users' failures.
        """
        visitor = copy.copy(self)
        visitor._engine = engine
        visitor._arrival = planned
        visitor._index = planned.index
        visitor._connection = engine.take_connection()
        try:
            chosen = random.Random(planned.index).choice(self.tasks)
            if isinstance(chosen, type):
                raise TypeError(
                    f"in an open loop tasks are functions, and {chosen.__name__} is not"
                )
            chosen(visitor)
        except (InterruptTaskSet, RescheduleTask, StopUser):
            pass  # the visit is over in any case
        except Exception as exc:
            self.environment.events.user_error.fire(
                user_instance=visitor, exception=exc, tb=exc.__traceback__
            )
            logger.exception("a task failed")
        finally:
            engine.give_back(visitor._connection)


class SDKUser(LLMUser):
    """The same user through the async SDK: it tests what applications run.

    Its records say `client: sdk`, and what the SDK adds is measured before a reported run. The SDK
    streams completions and chat, and stamps in user space.
    """

    abstract = True

    tries: Tries = staticmethod(sdk_attempt)


class CommandLineUser(LLMUser):
    """Does what the options of the command line say, back to back or when requests arrive."""

    scenario = "command line"

    @task  # type: ignore[untyped-decorator]  # locust's own types are not read
    def ask(self) -> None:
        self.generate()


def run_state_of(environment: Any) -> RunState:
    """The state that the environment's users share, made for the first of them."""
    state = getattr(environment, "lorry_run", None)
    if state is None:
        state = environment.lorry_run = RunState()
    return cast(RunState, state)  # the attribute is set here and by those who start a test


# A locustfile that imports this module gets what a run needs beside its users.
events.init.add_listener(lambda environment, **_: attach_run(environment))
