"""`KeyRing`: the keys that open something, compared so that time tells nothing about them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from lorry_server.http.errors import WireError, error_response

Endpoint = Callable[[Request], Awaitable[Response]]

UNAUTHORIZED = WireError(
    status=401,
    message="A valid API key is needed: Authorization: Bearer <key>.",
    openai_type="invalid_request_error",
    code="invalid_api_key",
    lorax_type="authentication",
    headers={"www-authenticate": "Bearer"},
)
FORBIDDEN = WireError(
    status=403,
    message="This key may not change adapters; a key of --admin-key may.",
    openai_type="invalid_request_error",
    code="admin_key_needed",
    lorax_type="authentication",
)


class KeyRing:
    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def opens_for(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether the raw headers hold one `Authorization: Bearer <one of the keys>`."""
        sent = [value for name, value in headers if name == b"authorization"]
        if len(sent) != 1:
            return False
        scheme, _, key = sent[0].partition(b" ")
        digest = hashlib.sha256(key).digest()
        # All are compared, so that the time does not tell which was nearest.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def for_admins(
    endpoint: Endpoint, *, admin_keys: Sequence[str], api_keys: Sequence[str]
) -> Endpoint:
    """`endpoint` for those with one of `admin_keys`; who has no key at all is told that first."""
    admins, users = KeyRing(admin_keys), KeyRing(api_keys)

    async def guarded(request: Request) -> Response:
        headers = request.scope["headers"]
        if admins.opens_for(headers):
            return await endpoint(request)
        error = FORBIDDEN if users.opens_for(headers) else UNAUTHORIZED
        return error_response(error, request.scope["path"])

    return guarded
