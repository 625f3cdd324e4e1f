"""`NormTable`: weights of norms that adapters bring themselves, by norm and slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena
from lorry_server.kernels.cpu.pack import padded
from lorry_server.layers.norm import RMSNorm
from lorry_server.runner.compiled.adapter_memory import AdapterMemory, Entry


class NormTable:
    """Addresses, which are 0 where an adapter leaves a norm as it is."""

    def __init__(self, arena: Arena, norms: Iterable[RMSNorm], *, max_slots: int) -> None:
        self._numbers = {norm.name: number for number, norm in enumerate(norms)}
        shape = (len(self._numbers), max_slots)
        self._addresses = arena.words(int(np.prod(shape))).reshape(shape)

    def of(self, norm: RMSNorm) -> npt.NDArray[np.int64]:
        """The addresses of one norm, slot by slot."""
        addresses: npt.NDArray[np.int64] = self._addresses[self._numbers[norm.name]]
        return addresses

    def pack(self, norms: Mapping[str, torch.Tensor], memory: AdapterMemory) -> Entry:
        """The words of one adapter, one for each norm."""
        entry = Entry(len(self._numbers))
        for name, weight_D in norms.items():
            weight = np.zeros(padded(len(weight_D)), np.float32)
            weight[: len(weight_D)] = weight_D.numpy()
            entry.point(t.WORD_BYTES * self._numbers[name], memory.add(weight))
        return entry

    def attach(self, slot: int, words: npt.NDArray[np.int64]) -> None:
        self._addresses[:, slot] = words

    def detach(self, slot: int) -> None:
        self._addresses[:, slot] = 0
