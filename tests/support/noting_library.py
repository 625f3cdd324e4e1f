"""A library of adapters that only notes what it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from lorry_server.errors import AdapterError


@dataclass
class NotingLibrary:
    """`calls` in order, without those that only declare a name. Loads of a name in `broken` fail; those of one in `gates` wait for it."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    served: dict[str, str] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)

    async def load(self, name: str, source: str, *, replace: bool, preload: bool = True) -> object:
        assert replace
        if not preload:
            self.declared.add(name)
            return None
        self.calls.append(("load", name))
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.broken:
            raise AdapterError(f"{name} is broken")
        self.served[name] = source
        return None

    def unload(self, name: str) -> None:
        self.calls.append(("unload", name))
        self.declared.discard(name)
        self.served.pop(name, None)

    def find(self, name: str) -> object | None:
        return self.served.get(name, "declared" if name in self.declared else None)
