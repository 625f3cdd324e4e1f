"""Elements of weights, rows and caches that are floats, as the tape names them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch

from lorry_server.kernels.cpu import tape as t

ELEMENTS: Mapping[torch.dtype, int] = MappingProxyType(
    {torch.float32: t.FLOAT32, torch.bfloat16: t.BFLOAT16}
)
ELEMENT_BYTES: Mapping[int, int] = MappingProxyType({t.FLOAT32: 4, t.BFLOAT16: 2})
INPUTS_PER_STEP: Mapping[int, int] = MappingProxyType({t.FLOAT32: 1, t.BFLOAT16: 2})

# The same elements as integers of their size: numpy has no bfloat16.
Bits = npt.NDArray[np.uint32] | npt.NDArray[np.uint16]


def bits_of(values: torch.Tensor, element: int) -> Bits:
    """A float tensor, converted to `element`, as the integers of its bits."""
    if element == t.BFLOAT16:
        return values.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
    return values.float().contiguous().view(torch.uint32).numpy()


def as_bits(memory: npt.NDArray[np.uint8], element: int) -> Bits:
    """Bytes of an arena as elements."""
    if element == t.BFLOAT16:
        return memory.view(np.uint16)
    return memory.view(np.uint32)
