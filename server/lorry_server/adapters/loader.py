"""`AdapterLoader`: from a source to an adapter that can be attached, on the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_server.adapters.composer import Composer, ParsedRecipe
from lorry_server.adapters.contract import Contract
from lorry_server.adapters.info import AdapterFacts, LoadTimes
from lorry_server.adapters.source import AdapterSources
from lorry_server.adapters.work_places import WorkPlaces
from lorry_server.errors import AdapterError, NotFoundError
from lorry_server.lora.adapter import Adapter, read_adapter
from lorry_server.lora.one_thread import on_one_thread
from lorry_server.lora.prepared import DeviceAdapters, PreparedAdapter

MAX_SHOWN_NAMES = 10

# Knows whether a digest is prepared already; asked from any thread.
FindPrepared = Callable[[str], PreparedAdapter | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdapter:
    """`source` is where it came from and can be had again; a composition has none."""

    source: str | None
    facts: AdapterFacts
    prepared: PreparedAdapter
    times: LoadTimes


@dataclass(frozen=True, slots=True)
class LoaderLimits:
    """Bytes that a prepared adapter may take at most; None is no limit."""

    device_bytes: int | None = None
    host_bytes: int | None = None


class AdapterLoader:
    """Holds no state but the places for those who compute, so it may be used on many threads.

    `examine` makes the doctor's report of an adapter, or raises AdapterError; `read_contract`
    reads what may stand beside the weights.
    """

    def __init__(
        self,
        sources: AdapterSources,
        device: DeviceAdapters,
        *,
        places: WorkPlaces,
        limits: LoaderLimits | None = None,
        allow_partial: bool = False,
        read: Callable[[Path], Adapter] = read_adapter,
        examine: Callable[[Adapter], Mapping[str, Any]] | None = None,
        read_contract: Callable[[Path], Contract | None] | None = None,
        composer: Composer | None = None,
    ) -> None:
        self.composer = composer
        self._sources = sources
        self._device = device
        self._places = places
        self._limits = limits or LoaderLimits()
        self._allow_partial = allow_partial
        self._read = read
        self._examine = examine
        self._read_contract = read_contract

    def find(self, name: str) -> str:
        """Return the source of a name that nobody has loaded; raise NotFoundError."""
        source = self._sources.find(name)
        if source is None:
            raise NotFoundError(f"no source has an adapter {name!r}")
        return source

    def load(
        self,
        source: str,
        *,
        cancelled: Callable[[], bool],
        find_prepared: FindPrepared,
        wanted_digest: str | None = None,
    ) -> LoadedAdapter:
        """Fetch, read, check and prepare `source`.

        Fetching may take as long as the source wants. What follows computes, and takes turns.
        Raises AdapterError, also when the content is not that of `wanted_digest`.
        """
        watch = Stopwatch()
        path = self._sources.fetch(source, cancelled=cancelled)
        watch.lap("fetch")
        with self._places.one(), on_one_thread():
            watch.skip()
            adapter = self._read(path)
            if wanted_digest is not None:
                check_digest(adapter.digest, wanted_digest, source=source)
            contract = None if self._read_contract is None else self._read_contract(path)
            watch.lap("read")
            return self._prepare(
                adapter, source=source, contract=contract, watch=watch, find_prepared=find_prepared
            )

    def compose(
        self,
        recipe: ParsedRecipe,
        parts: Sequence[tuple[str, str]],
        *,
        digest: str,
        cancelled: Callable[[], bool],
        find_prepared: FindPrepared,
    ) -> LoadedAdapter:
        """Make one adapter of `parts`, each a source and the digest that it must still have.

        `digest` is the result's. Raises AdapterError.
        """
        assert self.composer is not None
        watch = Stopwatch()
        paths = [self._sources.fetch(source, cancelled=cancelled) for source, _ in parts]
        watch.lap("fetch")
        with self._places.one(), on_one_thread():
            watch.skip()
            adapters = [self._read(path) for path in paths]
            for adapter, (source, wanted) in zip(adapters, parts, strict=True):
                check_digest(adapter.digest, wanted, source=source)
            composed = self.composer.compose(recipe, adapters)
            assert composed.digest == digest, "a composition is found again by its recipe's digest"
            watch.lap("read")
            return self._prepare(
                composed, source=None, contract=None, watch=watch, find_prepared=find_prepared
            )

    def _prepare(
        self,
        adapter: Adapter,
        *,
        source: str | None,
        contract: Contract | None,
        watch: Stopwatch,
        find_prepared: FindPrepared,
    ) -> LoadedAdapter:
        report = None
        # A composition has no files of its own to be compared with; its parts were examined.
        if self._examine is not None and source is not None:
            report = self._examine(adapter)
        watch.lap("check")
        # The same content under another name, or loaded again in place, is not prepared twice.
        prepared = find_prepared(adapter.digest)
        if prepared is None:
            prepared = self._device.prepare(adapter)
            watch.lap("prepare")
        self._check_match(adapter, prepared)
        self._check_size(adapter, prepared)
        watch.lap("check")
        return LoadedAdapter(
            source=source,
            facts=AdapterFacts(
                digest=adapter.digest,
                rank=adapter.rank,
                alpha=adapter.alpha,
                target_modules=adapter.target_modules,
                num_bytes=prepared.num_bytes,
                unmatched_tensors=prepared.unmatched,
                features=adapter.features,
                doctor=report,
                contract=contract,
            ),
            prepared=prepared,
            times=watch.times(),
        )

    def _check_match(self, adapter: Adapter, prepared: PreparedAdapter) -> None:
        if prepared.unmatched and not self._allow_partial:
            shown = ", ".join(repr(name) for name in prepared.unmatched[:MAX_SHOWN_NAMES])
            raise AdapterError(
                f"adapter {str(adapter.path)!r}: {len(prepared.unmatched)} of its "
                f"{len(adapter.names)} modules match no layer of this model: {shown}. Serving it "
                "would apply it in part; --allow-partial-adapters does so."
            )

    def _check_size(self, adapter: Adapter, prepared: PreparedAdapter) -> None:
        for flag, limit in (
            ("--adapter-memory", self._limits.device_bytes),
            ("--adapter-host-memory", self._limits.host_bytes),
        ):
            if limit is not None and prepared.num_bytes > limit:
                raise AdapterError(
                    f"adapter {str(adapter.path)!r} takes {prepared.num_bytes} bytes in memory; "
                    f"{flag} allows {limit} for all adapters together"
                )


def check_digest(found: str, wanted: str, *, source: str) -> None:
    """Raise AdapterError when a source no longer holds the version that was loaded from it."""
    if found != wanted:
        raise AdapterError(
            f"version {wanted[:8]} is no longer at its source {source!r}, which now holds "
            f"{found[:8]}"
        )


class Stopwatch:
    """Adds up the time of each phase of a load."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}
        self._since_s = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Count the time since the last call to `phase`."""
        now = time.perf_counter()
        self._ms[phase] = self._ms.get(phase, 0.0) + (now - self._since_s) * 1000
        self._since_s = now

    def skip(self) -> None:
        """Count the time since the last call to no phase."""
        self._since_s = time.perf_counter()

    def times(self) -> LoadTimes:
        return LoadTimes(**{phase: round(ms, 3) for phase, ms in self._ms.items()})
