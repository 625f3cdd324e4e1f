"""`FakeAdapters`: slots that hold nothing but the number of the adapter that is attached there."""

from __future__ import annotations

from lorry_server.lora.adapter import Adapter
from lorry_server.lora.prepared import PreparedAdapter


def fake_prepared(digest: str, *, num_bytes: int = 1, number: int = 0) -> PreparedAdapter:
    """An adapter for `FakeAdapters`, known by `number` wherever it is attached."""
    return PreparedAdapter(digest, num_bytes=num_bytes, unmatched=(), contents=number)


class FakeAdapters:
    """`DeviceAdapters` that insist on being told of every change once."""

    def __init__(self) -> None:
        self.attached: dict[int, PreparedAdapter] = {}

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        return fake_prepared(adapter.digest, num_bytes=adapter.num_bytes)

    def attach(self, slot: int, prepared: PreparedAdapter) -> None:
        assert slot not in self.attached, f"slot {slot} is taken"
        self.attached[slot] = prepared

    def detach(self, slot: int) -> None:
        del self.attached[slot]

    def number(self, slot: int) -> int:
        """The number of the adapter in `slot`; KeyError for a slot that is empty."""
        number = self.attached[slot].contents
        assert isinstance(number, int)
        return number
