"""As much of locust as the load test's sending half touches, without its patches of the process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeEvent:
    """Keeps what was fired."""

    fired: list[dict[str, Any]] = field(default_factory=list)

    def fire(self, **arguments: Any) -> None:
        self.fired.append(arguments)


@dataclass
class FakeEvents:
    request: FakeEvent = field(default_factory=FakeEvent)


@dataclass
class FakeEnvironment:
    host: str = ""
    shape_class: Any = None
    events: FakeEvents = field(default_factory=FakeEvents)


@dataclass
class Message:
    """What a handler of locust's custom messages is given."""

    data: dict[str, Any]
    node_id: str = ""


@dataclass
class FakeClient:
    id: str
    state: str = "ready"


class FakeClients:
    """A master's view of its workers."""

    def __init__(self, *ids: str) -> None:
        self.ready = [FakeClient(client_id) for client_id in ids]
        self.spawning: list[FakeClient] = []
        self.running: list[FakeClient] = []

    @property
    def all(self) -> list[FakeClient]:
        return self.ready


class FakeMaster:
    """Delivers messages to `FakeWorker`s of the same ids."""

    def __init__(self, *ids: str) -> None:
        self.clients = FakeClients(*ids)
        self.workers = {client_id: FakeWorker(client_id, self) for client_id in ids}
        self.handlers: dict[str, Callable[..., None]] = {}

    def register_message(self, kind: str, handler: Callable[..., None]) -> None:
        self.handlers[kind] = handler

    def get_worker_index(self, client_id: str) -> int:
        return list(self.workers).index(client_id)

    def send_message(
        self, kind: str, data: dict[str, Any] | None = None, client_id: str | None = None
    ) -> None:
        for worker in self.workers.values():
            if client_id in (None, worker.client_id):
                worker.handlers[kind](environment=None, msg=Message(data or {}))


class FakeWorker:
    """`stop` calls what the test put into `on_stop`."""

    def __init__(self, client_id: str, master: FakeMaster) -> None:
        self.client_id = client_id
        self.handlers: dict[str, Callable[..., None]] = {}
        self.on_stop: Callable[[], None] = lambda: None
        self.sent: list[str] = []
        self._master = master

    def register_message(
        self, kind: str, handler: Callable[..., None], concurrent: bool = False
    ) -> None:
        self.handlers[kind] = handler

    def send_message(self, kind: str, data: dict[str, Any]) -> None:
        self.sent.append(kind)
        self._master.handlers[kind](environment=None, msg=Message(data, self.client_id))

    def _send_stats(self) -> None:
        self.sent.append("stats")

    def stop(self) -> None:
        self.on_stop()
