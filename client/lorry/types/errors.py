"""Error bodies: OpenAI's on `/v1`, LoRAX's and TGI's on their routes."""

from __future__ import annotations

from msgspec import Struct


class ErrorDetail(Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class ErrorBody(Struct, frozen=True):
    """`{"error": {"message", "type", "param", "code"}}`."""

    error: ErrorDetail


class LoraxErrorBody(Struct, frozen=True):
    """`{"error": "<message>", "error_type": "<type>"}`."""

    error: str
    error_type: str
