"""The header `idempotency-key`: which requests are the same request sent again.

After the IETF's draft-ietf-httpapi-idempotency-key-header: a key that comes with another request
is refused with 422. The draft writes the key in quotes; both forms are taken and mean the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lorry_server.errors import RequestError
from lorry_server.http.parsing import shown

HEADER = "idempotency-key"
MAX_CHARS = 255

_RAW_HEADER = HEADER.encode()
_KEY = re.compile(rf'("?)([!#-\[\]-~]{{1,{MAX_CHARS}}})\1')


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key and whose it is: the digest of what the client authorised itself with."""

    owner: bytes
    text: str


def read_key(headers: Sequence[tuple[bytes, bytes]]) -> IdempotencyKey | None:
    """Read the key among raw `headers`; None where none is sent. Raises RequestError."""
    given = [value for name, value in headers if name == _RAW_HEADER]
    if not given:
        return None
    match = _KEY.fullmatch(given[0].decode("latin-1"))
    if match is None or len(given) > 1:
        raise RequestError(
            f"`{HEADER}` must be one key of 1 to {MAX_CHARS} printable ASCII characters without "
            f"spaces, quotes or backslashes. Given: {len(given)} of them, the first "
            f"{shown(given[0].decode('latin-1'))}",
            param=HEADER,
            code="invalid_value",
        )
    authorization = [value for name, value in headers if name == b"authorization"]
    return IdempotencyKey(hashlib.sha256(b"\n".join(authorization)).digest(), match.group(2))


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """Return what tells one request from another; two with the same do the same."""
    digest = hashlib.sha256(f"{method} {path}\n".encode())
    digest.update(body)
    return digest.digest()
