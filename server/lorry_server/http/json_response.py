"""Messages of the wire schema as JSON bytes, and as responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

_encoder = msgspec.json.Encoder()

# Valid inside JSON strings, but line breaks to readers that split text at them.
_LINE_BREAKS = (
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
    (b"\xc2\x85", b"\\u0085"),
)


def encode_json(message: Any) -> bytes:
    """Encode a struct or plain value on one line, whatever reader splits it into lines."""
    encoded = _encoder.encode(message)
    if not encoded.isascii():
        for raw, escaped in _LINE_BREAKS:
            encoded = encoded.replace(raw, escaped)
    return encoded


def json_response(
    message: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        encode_json(message),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )
