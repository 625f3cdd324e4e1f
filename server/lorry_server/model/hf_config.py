"""A model folder's config.json, read with the defaults of its family and errors that name the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorry_server.errors import ModelError


class HFConfig:
    """The keys of one config.json. An absent key has its family's default; null means None."""

    def __init__(self, values: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> None:
        self._values = {**defaults, **values}

    def __contains__(self, key: str) -> bool:
        """Whether the key has a value other than null."""
        return self._values.get(key) is not None

    def get(self, key: str) -> Any:
        """The raw value, or None."""
        return self._values.get(key)

    def integer(self, key: str, *, default: int | None = None) -> int:
        value = self._values[key] if key in self else default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"config.json: {key} must be a positive integer, not {value!r}")
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        value = self._values[key] if key in self else default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"config.json: {key} must be a number, not {value!r}")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self._values[key] if key in self else False
        if not isinstance(value, bool):
            raise ModelError(f"config.json: {key} must be true or false, not {value!r}")
        return value

    def per_layer(self, key: str, *, num_layers: int) -> list[Any] | None:
        """A list with one entry for each layer, or None where the key is absent."""
        values = self._values.get(key)
        if values is None:
            return None
        if not isinstance(values, list) or len(values) != num_layers:
            raise ModelError(
                f"config.json: {key} must list one entry for each of the {num_layers} layers"
            )
        return values


def read_config(folder: Path) -> dict[str, Any]:
    """The object in `folder`/config.json; raises `ModelError` where it is missing or malformed."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a model folder: it has no config.json") from None
    except ValueError as exc:
        raise ModelError(f"{path} is not valid JSON: {exc}") from exc
    if not isinstance(values, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(values).__name__}")
    return values
