"""What an adapter may be called: its name goes into URLs, headers and metrics."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


def check_adapter_name(name: str) -> str:
    """Return `name`; raise ValueError with a sentence when it is not allowed."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"adapter name {name[:64]!r} is not allowed: it starts with a letter or digit and has "
            "at most 96 letters, digits, '.', '_' and '-', with at most one '/' between two such"
        )
    return name
