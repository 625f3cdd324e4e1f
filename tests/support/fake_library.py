"""Adapters without tensors, and places for them that answer when the test lets them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorry_server.adapters.library import AdapterLibrary
from lorry_server.adapters.loader import AdapterLoader, LoaderLimits
from lorry_server.adapters.settings import LibrarySettings
from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.work_places import WorkPlaces
from lorry_server.lora.adapter import Adapter
from lorry_server.lora.prepared import PreparedAdapter
from tests.support.fake_engine import FakeEngine

NUM_BYTES = 1000


@dataclass
class Gate:
    """Holds a thread in the middle of something until it is opened."""

    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    async def has_been_reached(self) -> None:
        await asyncio.to_thread(self.entered.wait)

    def open(self) -> None:
        self.opened.set()

    def pass_through(self) -> None:
        self.entered.set()
        self.opened.wait()


class FakeAdapters:
    """Sources, reader and device in one. `contents` has the adapter that lies at each source.

    `fetched` and `prepared` record what was done. A gate holds what comes to fetch a source, or
    to prepare a digest; an error is raised instead of fetching.
    """

    def __init__(self) -> None:
        self.contents: dict[str, Adapter] = {}
        self.found: dict[str, str] = {}  # source by name, for those that may be loaded by name
        self.fetched: list[str] = []
        self.prepared: list[str] = []
        self.looked_up: list[str] = []
        self.num_bytes: dict[str, int] = {}  # by digest
        self.unmatched: dict[str, tuple[str, ...]] = {}
        self.errors: dict[str, Exception] = {}
        self._gates: dict[str, Gate] = {}

    # -- the test's side

    def put(self, source: str, digest: str, *, num_bytes: int = NUM_BYTES) -> None:
        """Let `source` hold the content `digest` from now on."""
        self.contents[source] = Adapter(
            path=Path(source),
            digest=digest,
            rank=8,
            alpha=16.0,
            target_modules=("q_proj", "v_proj"),
            num_bytes=num_bytes,
            modules={},
        )
        self.num_bytes[digest] = num_bytes

    def offer(self, name: str, digest: str, *, num_bytes: int = NUM_BYTES) -> str:
        """Let `name` be found by whoever asks for it; return the source that it gets."""
        source = f"/root/{name}"
        self.put(source, digest, num_bytes=num_bytes)
        self.found[name] = source
        return source

    def gate(self, key: str) -> Gate:
        """Hold the next threads that fetch the source `key` or prepare the digest `key`."""
        self._gates[key] = gate = Gate()
        return gate

    def lift(self, key: str) -> None:
        """Hold nobody there any more; open what is held."""
        self._gates.pop(key).open()

    # -- AdapterSources

    def find(self, name: str) -> str | None:
        self.looked_up.append(name)
        return self.found.get(name)

    def fetch(self, source: str, *, cancelled: Callable[[], bool]) -> Path:
        self.fetched.append(source)
        self._pass(source)
        if source in self.errors:
            raise self.errors[source]
        if source not in self.contents:
            raise AdapterSourceError(f"no adapter found for {source!r}", is_missing=True)
        return Path(source)

    # -- the reader

    def read(self, path: Path) -> Adapter:
        return next(a for source, a in self.contents.items() if Path(source) == path)

    # -- DeviceAdapters

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        self._pass(adapter.digest)
        self.prepared.append(adapter.digest)
        return PreparedAdapter(
            digest=adapter.digest,
            num_bytes=self.num_bytes[adapter.digest],
            unmatched=self.unmatched.get(adapter.digest, ()),
            contents=None,
        )

    def attach(self, slot: int, prepared: PreparedAdapter) -> None:
        raise AssertionError("a library attaches nothing")

    def detach(self, slot: int) -> None:
        raise AssertionError("a library detaches nothing")

    def _pass(self, key: str) -> None:
        gate = self._gates.get(key)
        if gate is not None:
            gate.pass_through()


def fake_library(
    engine: FakeEngine,
    adapters: FakeAdapters | None = None,
    *,
    num_workers: int = 4,
    hand_over_s: float = 60.0,
    limits: LoaderLimits | None = None,
    clock: Callable[[], float] | None = None,
    loader_options: dict[str, Any] | None = None,
    **settings: Any,
) -> AdapterLibrary:
    """A library over `engine`, with the adapters that the engine was made with."""
    adapters = adapters or FakeAdapters()
    loader = AdapterLoader(
        adapters,
        adapters,
        places=WorkPlaces(num_workers, hand_over_s=hand_over_s),
        limits=limits,
        read=adapters.read,
        **(loader_options or {}),
    )
    library = AdapterLibrary(
        loader,
        engine,
        settings=LibrarySettings(**settings),
        reserved=frozenset({"tiny", engine.info.model_id}),
        **({} if clock is None else {"clock": clock}),
    )
    for name in engine.adapter_names:
        adapters.put(f"/adapters/{name}", f"digest-of-{name}")
        library.preload(name, f"/adapters/{name}")
    return library
