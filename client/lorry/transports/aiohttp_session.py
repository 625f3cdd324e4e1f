"""HTTP through an `aiohttp.ClientSession` that the caller made: with its proxies, cookies and traces."""

from __future__ import annotations

import io

import aiohttp

from lorry.timing import AttemptTiming
from lorry.transports.aiohttp_errors import connected_too_late, lost, not_connected
from lorry.transports.aiohttp_response import AiohttpResponse
from lorry.transports.base import WireRequest

# aiohttp warns when a larger body is given as bytes, and sends a file piece by piece
MAX_PLAIN_BODY_BYTES = 2**20


class AiohttpSessionTransport:
    """Uses a session that the caller made, configured and will close."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> AiohttpSessionResponse:
        attempt.connected_ns = attempt.sent_ns  # a session does not say when it connected
        body = request.body
        is_large = body is not None and len(body) > MAX_PLAIN_BODY_BYTES
        timeout = aiohttp.ClientTimeout(total=None, connect=request.connect_timeout_s)
        try:
            response = await self._session.request(
                request.method,
                request.url,
                data=io.BytesIO(body or b"") if is_large else body,
                headers=request.headers,
                allow_redirects=False,
                raise_for_status=False,
                timeout=timeout,
            )
        except aiohttp.ServerTimeoutError as error:
            raise connected_too_late(request.url, request.connect_timeout_s) from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise not_connected(request.url, error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise lost(error) from error
        return AiohttpSessionResponse(response)

    async def aclose(self) -> None:
        """Does nothing: the session is its maker's."""


class AiohttpSessionResponse(AiohttpResponse):
    """A response of a session, which keeps the connection."""

    __slots__ = ("_response",)

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__(response.status, response.headers, response.content)
        self._response = response

    def abort(self) -> None:
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()  # what is still to be sent is not waited for
        self._response.close()
