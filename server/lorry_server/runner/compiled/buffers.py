"""`Buffers`: where a step's intermediate values lie, sized once for the largest step.

Shape legend: T tokens of the largest step, N logits rows computed at once, P padded to 32.
"""

from __future__ import annotations

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import GROUP, padded
from lorry_server.runner.compiled.elements import ELEMENT_BYTES
from lorry_server.runner.compiled.records import Field


class QuantizedRows:
    """Rows of bytes with a scale and a start for each group of 32."""

    def __init__(self, arena: Arena, *, num_rows: int, size: int) -> None:
        self.num_groups = padded(size) // GROUP
        self.bytes = arena.bytes(num_rows * padded(size))
        self.scale = arena.floats(num_rows * self.num_groups)
        self.start = arena.ints(num_rows * self.num_groups)

    def as_input(self) -> dict[int, Field]:
        return {
            t.XQ: self.bytes,
            t.LD_XQ: GROUP * self.num_groups,
            t.X_SCALE: self.scale,
            t.X_START: self.start,
            t.NUM_GROUPS: self.num_groups,
        }

    def as_gated_output(self) -> dict[int, Field]:
        return {
            t.OUT_XQ: self.bytes,
            t.OUT_LD_XQ: GROUP * self.num_groups,
            t.OUT_SCALE: self.scale,
            t.OUT_START: self.start,
            t.OUT_GROUPS: self.num_groups,
        }


class ElementRows:
    """Rows of float32 or bfloat16, and one more, which a tile may read."""

    def __init__(self, arena: Arena, *, num_rows: int, size: int, element: int) -> None:
        self._element = element
        self._num_groups = padded(size) // GROUP
        self._stride = padded(size) * ELEMENT_BYTES[element]
        self._bytes = arena.bytes((num_rows + 1) * self._stride)

    def as_input(self) -> dict[int, Field]:
        return {
            t.XQ: self._bytes,
            t.LD_XQ: self._stride,
            t.NUM_GROUPS: self._num_groups,
            t.ELEMENT: self._element,
        }

    def as_gated_output(self) -> dict[int, Field]:
        return {t.OUT_XQ: self._bytes, t.OUT_LD_XQ: self._stride}


class FloatRows:
    """Rows of float32 at a stride that is a multiple of 32, and one more, which a tile may read."""

    def __init__(self, arena: Arena, *, num_rows: int, size: int) -> None:
        self.size = size
        self.padded = padded(size)
        self.values = arena.floats((num_rows + 1) * self.padded)[: num_rows * self.padded]

    @property
    def stride(self) -> int:
        """Bytes from row to row."""
        return 4 * self.padded

    def as_input(self) -> dict[int, Field]:
        return {
            t.XQ: self.values,
            t.LD_XQ: self.stride,
            t.NUM_GROUPS: self.padded // GROUP,
            t.ELEMENT: t.FLOAT32,
        }
