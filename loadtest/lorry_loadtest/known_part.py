"""Reads of what a server sent the fields that we know; it may send more, and null for what it has not."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

Known = TypeVar("Known", bound=msgspec.Struct)


def known_part(sent: dict[str, Any], kind: type[Known]) -> Known:
    """msgspec.ValidationError names a field that is wrong or missing."""
    fields = {
        name: value for name in kind.__struct_fields__ if (value := sent.get(name)) is not None
    }
    return msgspec.convert(fields, kind)
