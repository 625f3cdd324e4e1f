"""What the library asks of the places that adapters come from, and how these refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lorry_server.errors import AdapterError


class AdapterSourceError(AdapterError):
    """A source that cannot be fetched; the message says why to whoever asked for the adapter.

    `is_missing` tells a place where no adapter is from one that is forbidden or does not answer.
    """

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class AdapterSources(Protocol):
    """Both methods may be called on any thread, and may take long."""

    def find(self, name: str) -> str | None:
        """Return the source that an allowed root has for `name`; None where there is none."""
        ...

    def fetch(self, source: str, *, cancelled: Callable[[], bool]) -> Path:
        """Return a local folder with what `source` names.

        It ends soon after `cancelled()` has become true. Raises AdapterSourceError, also for
        sources that are not allowed.
        """
        ...
