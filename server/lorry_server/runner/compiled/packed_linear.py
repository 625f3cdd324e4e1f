"""`PackedLinear`: a linear of the model in the order in which the tiles read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorry_server.kernels.cpu.float_pack import pack_elements
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import (
    GROUP,
    PANEL,
    Part,
    lay_out,
    num_panels,
    pack_bytes,
    pack_nibbles,
    padded,
    spread,
    spread_groups,
)
from lorry_server.layers.linear import Linear
from lorry_server.quantization.affine_rows import AffineRows
from lorry_server.quantization.int4 import Int4Weight
from lorry_server.quantization.unquantized import UnquantizedWeight
from lorry_server.runner.compiled.elements import ELEMENT_BYTES, ELEMENTS, as_bits, bits_of

MIDDLE = 128.0  # the zero point that costs nothing


@dataclass(frozen=True, slots=True)
class Nibbles:
    """What int4 weights have for each panel, group and column of the panel."""

    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """The arrays behind one matmul.

    Floats are `element`s; it is None for integers. Bytes have a `scale` for each column, and a `zero`, the zero points less 128, unless all are
    128. Half bytes have `nibbles` instead.
    """

    name: str
    num_inputs: int
    parts: tuple[Part, ...]
    w: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32] | None
    zero: npt.NDArray[np.float32] | None
    nibbles: Nibbles | None
    element: int | None
    bias: npt.NDArray[np.float32] | None
    panel_slice: npt.NDArray[np.uint8]  # of each panel, which of the checkpoint's modules it is of
    slice_starts: tuple[int, ...]  # rows at which those modules begin

    @property
    def num_slices(self) -> int:
        return len(self.slice_starts)

    @property
    def num_panels(self) -> int:
        return num_panels(self.parts)

    def parts_of_slice(self, index: int) -> tuple[Part, ...]:
        """The parts that lie in one of the checkpoint's modules, in order."""
        return tuple(part for part in self.parts if self.panel_slice[part.panel] == index)

    @property
    def num_groups(self) -> int:
        return padded(self.num_inputs) // GROUP

    @property
    def num_outputs(self) -> int:
        """Columns of the product, filling included."""
        return PANEL * self.num_panels

    @property
    def panel_bytes(self) -> int:
        if self.element is not None:
            return PANEL * padded(self.num_inputs) * ELEMENT_BYTES[self.element]
        return PANEL * padded(self.num_inputs) // (1 if self.nibbles is None else 2)

    def column_of(self, part: int) -> int:
        """Where the columns of a part begin."""
        return PANEL * self.parts[part].panel


def pack_linear(linear: Linear, sizes: Sequence[int], arena: Arena) -> PackedLinear:
    """Pack a linear whose rows fall into parts of `sizes`; each lies within one of its slices."""
    weight = linear.weight
    parts = lay_out(sizes)
    panels = num_panels(parts)
    num_bytes = PANEL * panels * padded(linear.in_features)
    scale = zero = bias = nibbles = element = None
    if isinstance(weight, Int4Weight):
        w = arena.bytes(num_bytes // 2)
        pack_nibbles(weight.q_OI.numpy(), parts, w)
        nibbles = _nibbles(weight, parts, arena)
    elif isinstance(weight, UnquantizedWeight):
        element = ELEMENTS[weight.w_OI.dtype]
        w = arena.bytes(num_bytes * ELEMENT_BYTES[element])
        pack_elements(bits_of(weight.w_OI, element), parts, as_bits(w, element), multiple=GROUP)
    else:
        assert isinstance(weight, AffineRows)
        w = arena.bytes(num_bytes)
        pack_bytes(weight.q_OI.numpy(), parts, w)
        scale = arena.floats(PANEL * panels)
        spread(weight.scale_O.numpy(), parts, scale)
        if not weight.is_symmetric:
            zero = arena.floats(PANEL * panels)
            spread((weight.zero_O - MIDDLE).numpy(), parts, zero)
    if linear.bias_O is not None:
        bias = arena.floats(PANEL * panels)
        spread(linear.bias_O.float().numpy(), parts, bias)
    panel_slice = arena.bytes(panels)[:panels]
    for index, part in enumerate(parts):
        stop = parts[index + 1].panel if index + 1 < len(parts) else panels
        panel_slice[part.panel : stop] = _slice_of(linear, part)
    return PackedLinear(
        name=linear.name,
        num_inputs=linear.in_features,
        parts=parts,
        w=w,
        scale=scale,
        zero=zero,
        nibbles=nibbles,
        element=element,
        bias=bias,
        panel_slice=panel_slice,
        slice_starts=tuple(piece.start for piece in linear.slices),
    )


def _nibbles(weight: Int4Weight, parts: Sequence[Part], arena: Arena) -> Nibbles:
    count = PANEL * num_panels(parts) * weight.scale_OG.shape[1]
    scale, zero = arena.floats(count), arena.bytes(count).view(np.int8)[:count]
    spread_groups(weight.scale_OG.numpy(), parts, scale)
    spread_groups(weight.zero_OG.numpy(), parts, zero)
    return Nibbles(scale, zero)


def _slice_of(linear: Linear, part: Part) -> int:
    for index, piece in enumerate(linear.slices):
        if piece.start <= part.start and part.stop <= piece.stop:
            return index
    raise AssertionError(f"{linear.name}: rows {part.start} to {part.stop} lie in no one module")
