"""`AdapterLease`: a request's right to a version, from the choice of its weights to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lorry_server.adapters.info import AdapterFacts, AdapterInfo, Tier


@dataclass(slots=True, eq=False)
class AdapterLease:
    """As long as it is held its version stays in memory, whatever happens to the name.

    `name` is the adapter's name, None for a composition; `asked` is what the request wrote.
    `tier` is where the version was when it was asked for. `waited_ms` is None when nothing had
    to be waited for.
    """

    name: str | None
    asked: str
    info: AdapterInfo
    facts: AdapterFacts
    tier: Tier
    on_release: Callable[[], None]
    waited_ms: float | None = None
    _is_held: bool = field(default=True, init=False)

    @property
    def digest(self) -> str:
        return self.facts.digest

    def release(self) -> None:
        """Give the version back; harmless when that has been done."""
        if self._is_held:
            self._is_held = False
            self.on_release()


@contextmanager
def released_on_error(lease: AdapterLease | None) -> Iterator[None]:
    """Release `lease` if the block raises; else whoever has been given it does."""
    try:
        yield
    except BaseException:
        if lease is not None:
            lease.release()
        raise
