"""Weights in the order in which the tiles read them.

Columns of the product (rows of the weight) go in panels of 32; in a panel, each line of 64 bytes
has 4 inputs of 16 columns. Every part of a fused weight begins a panel of its own, so that a panel
belongs to one part; what fills it up has scale 0.

Shape legend: N output features, K input features, P padded to 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PANEL = 32
GROUP = 32


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start : stop` of a fused weight, which begin panel `panel`."""

    start: int
    stop: int
    panel: int


def padded(size: int) -> int:
    return -(-size // PANEL) * PANEL


def lay_out(sizes: Sequence[int]) -> tuple[Part, ...]:
    """The parts of a weight whose consecutive rows fall into parts of these sizes."""
    parts: list[Part] = []
    start = panel = 0
    for size in sizes:
        parts.append(Part(start, start + size, panel))
        start += size
        panel += padded(size) // PANEL
    return tuple(parts)


def num_panels(parts: Sequence[Part]) -> int:
    last = parts[-1]
    return last.panel + padded(last.stop - last.start) // PANEL


def pack_bytes(
    q_NK: npt.NDArray[np.uint8],
    parts: Sequence[Part],
    out: npt.NDArray[np.uint8],
    *,
    multiple: int = GROUP,
) -> None:
    """Pack unsigned bytes into `out`; K is filled up to `multiple` with the zero point, 128."""
    num_inputs = -(-q_NK.shape[1] // multiple) * multiple
    panels = out.reshape(-1, num_inputs // 4, 2, 16, 4)
    for part in parts:
        rows = part.stop - part.start
        q_PK = np.full((padded(rows), num_inputs), 128, np.uint8)
        q_PK[:rows, : q_NK.shape[1]] = q_NK[part.start : part.stop]
        tiled = q_PK.reshape(-1, 2, 16, num_inputs // 4, 4).transpose(0, 3, 1, 2, 4)
        panels[part.panel : part.panel + len(tiled)] = tiled


def spread(
    values_N: npt.NDArray[np.float32], parts: Sequence[Part], out: npt.NDArray[np.float32]
) -> None:
    """One value for each output feature, to where its panel has it; the filling stays 0."""
    for part in parts:
        start = part.panel * PANEL
        out[start : start + part.stop - part.start] = values_N[part.start : part.stop]


def pack_nibbles(
    q_NK: npt.NDArray[np.uint8], parts: Sequence[Part], out: npt.NDArray[np.uint8]
) -> None:
    """Pack integers 0 to 15, K a multiple of 32, two to a byte as `nibble_tile` reads them."""
    num_groups = q_NK.shape[1] // GROUP
    panels = out.reshape(-1, num_groups, 4, 2, 16, 4)
    for part in parts:
        rows = part.stop - part.start
        q_PK = np.zeros((padded(rows), q_NK.shape[1]), np.uint8)
        q_PK[:rows] = q_NK[part.start : part.stop]
        # panel, vector, column, group, half, step, input
        halves = q_PK.reshape(-1, 2, 16, num_groups, 2, 4, 4)
        both = halves[:, :, :, :, 0] | (halves[:, :, :, :, 1] << 4)
        panels[part.panel : part.panel + len(both)] = both.transpose(0, 3, 4, 1, 2, 5)


def spread_groups(
    values_NG: npt.NDArray[np.generic], parts: Sequence[Part], out: npt.NDArray[np.generic]
) -> None:
    """A value for each output feature and group, to `[panel, group, 32]`; the filling stays 0."""
    panels = out.reshape(-1, values_NG.shape[1], PANEL)
    for part in parts:
        rows = part.stop - part.start
        values_PG = np.zeros((padded(rows), values_NG.shape[1]), values_NG.dtype)
        values_PG[:rows] = values_NG[part.start : part.stop]
        tiled = values_PG.reshape(-1, PANEL, values_NG.shape[1]).transpose(0, 2, 1)
        panels[part.panel : part.panel + len(tiled)] = tiled
