"""`CheckpointWeights`: a model folder's tensors by name, for as long as adapters are loaded.

What serves may hold weights as bytes, packed for compiled code; what adapters say of the base (the
lengths of its rows, what training took away from them) is about the floats.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lorry_server.model.checkpoint import Checkpoint


class CheckpointWeights:
    """Opened when it is first asked; files are mapped into memory, so only what is read is there.

    `other_names` has the names under which one more tensor is asked for than the files have: a head
    that is tied to the embedding.
    """

    def __init__(self, folder: Path, *, other_names: Mapping[str, str]) -> None:
        self._folder = folder
        self._other_names = other_names
        self._lock = threading.Lock()
        self._checkpoint: Checkpoint | None = None
        self._names: frozenset[str] = frozenset()

    def read(self, name: str) -> Tensor:
        """A tensor by its name in the checkpoint; KeyError if there is none of that name.

        From any thread. Raises ModelError where the files cannot be read any more.
        """
        name = self._other_names.get(name, name)
        with self._lock:
            if self._checkpoint is None:
                self._checkpoint = Checkpoint(self._folder)
                self._names = frozenset(self._checkpoint.names())
            if name not in self._names:
                raise KeyError(name)
            return self._checkpoint.read(name)
