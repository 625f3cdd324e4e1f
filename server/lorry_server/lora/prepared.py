"""`PreparedAdapter`: an adapter made ready for one runner, and the protocol of what attaches it.

The slow part, quantizing and packing, is `prepare`, on any thread. The engine's thread only attaches and
detaches, between two steps. No torch: the scheduler's side of residency reads this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # it brings torch, which the engine goes without
    from lorry_server.lora.adapter import Adapter


@dataclass(frozen=True, slots=True)
class PreparedAdapter:
    """What `DeviceAdapters.prepare` made. Its memory is free once nothing refers to it.

    `num_bytes` is what it takes on the device, exactly; `unmatched` names the adapter's modules
    that the model does not have. Only the runner that made `contents` looks inside.
    """

    digest: str
    num_bytes: int
    unmatched: tuple[str, ...]
    contents: object


class DeviceAdapters(Protocol):
    """Where a runner's adapters lie, by slot: the small integer that a plan calls an adapter."""

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        """Make an adapter ready; from any thread, and several at once.

        Raises AdapterError when it does not fit the model.
        """
        ...

    def attach(self, slot: int, prepared: PreparedAdapter) -> None:
        """Let plans use the adapter as `slot`, which is free; between steps."""
        ...

    def detach(self, slot: int) -> None:
        """Forget what is in `slot`; between steps, when no running sequence uses it."""
        ...
