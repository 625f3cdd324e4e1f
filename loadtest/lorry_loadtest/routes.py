"""The streaming routes that requests can take."""

from __future__ import annotations

from typing import Literal

Route = Literal["completions", "chat", "lorax"]

PATHS: dict[Route, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "lorax": "/generate_stream",
}
