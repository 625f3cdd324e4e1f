"""Weights of floats in the order in which the tiles read them: as `pack`, but for elements.

A step of a panel is two lines of 64 bytes: 16 columns of one float32 each, or of a pair of bfloat16.

Shape legend: N output features, K input features, P padded to 32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lorry_server.kernels.cpu.pack import Part, padded


def pack_elements(
    w_NK: npt.NDArray[np.uint32] | npt.NDArray[np.uint16],
    parts: Sequence[Part],
    out: npt.NDArray[np.uint32] | npt.NDArray[np.uint16],
    *,
    multiple: int,
) -> None:
    """Pack the bits of elements into `out`, which is zeroed; K is filled up to `multiple`."""
    per_step = 4 // w_NK.itemsize
    num_steps = -(-w_NK.shape[1] // multiple) * multiple // per_step
    panels = out.reshape(-1, num_steps, 2, 16, per_step)
    for part in parts:
        rows = part.stop - part.start
        w_PK = np.zeros((padded(rows), num_steps * per_step), w_NK.dtype)
        w_PK[:rows, : w_NK.shape[1]] = w_NK[part.start : part.stop]
        tiled = w_PK.reshape(-1, 2, 16, num_steps, per_step).transpose(0, 3, 1, 2, 4)
        panels[part.panel : part.panel + len(tiled)] = tiled
