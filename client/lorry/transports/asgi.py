"""An ASGI application called in this process: streams as it sends them, and no socket."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from lorry.errors import ConnectionLost
from lorry.timing import AttemptTiming
from lorry.transports.asgi_lifespan import VERSIONS, Application, Lifespan, Message
from lorry.transports.base import WireRequest
from lorry.transports.headers import Headers

# what an application may send ahead of its reader, as a server's socket would hold
MAX_BUFFERED_BYTES = 64 * 1024
_ADDRESS = ("127.0.0.1", 0)


class ASGITransport:
    """Sends requests to `app`; any address will do as the client's `base_url`.

    The application starts (its `lifespan`) at the first request in an event loop and ends at
    `aclose`. Each piece that it sends is one piece of the answer. A client that leaves is an
    `http.disconnect` for it, and an OSError from its next `send`, as from a server of ASGI 2.4; it
    is not cancelled before `aclose`. What it raises is raised in the call, unless
    `raise_app_errors` is False: then it is an answer 500, or a lost connection if the answer had
    begun.
    """

    def __init__(
        self, app: Application, *, root_path: str = "", raise_app_errors: bool = True
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._raise_app_errors = raise_app_errors
        self._lifespans: dict[asyncio.AbstractEventLoop, Lifespan] = {}
        self._calls: dict[asyncio.AbstractEventLoop, set[ASGIResponse]] = {}

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> ASGIResponse:
        loop = asyncio.get_running_loop()
        lifespan = self._lifespans.get(loop)
        if lifespan is None:
            lifespan = self._open(loop)
        await lifespan.started()
        attempt.connected_ns = time.perf_counter_ns()
        call = ASGIResponse(
            self._app,
            _scope(request, root_path=self._root_path, lifespan=lifespan),
            request.body or b"",
            raise_app_errors=self._raise_app_errors,
        )
        calls = self._calls[loop]
        calls.add(call)
        call.task.add_done_callback(lambda _: calls.discard(call))
        try:
            await call.head_came()
        except BaseException:
            call.abort()
            raise
        return call

    async def aclose(self) -> None:
        """End all calls of the running loop, then the application."""
        loop = asyncio.get_running_loop()
        lifespan = self._lifespans.pop(loop, None)
        if lifespan is None:
            return
        calls = list(self._calls.pop(loop))
        for call in calls:
            call.abort()
            call.task.cancel()
        await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
        await lifespan.stop()

    def _open(self, loop: asyncio.AbstractEventLoop) -> Lifespan:
        for other in list(self._lifespans):
            if other.is_closed():
                # another thread may be doing the same
                self._lifespans.pop(other, None)
                self._calls.pop(other, None)
        self._calls[loop] = set()
        lifespan = self._lifespans[loop] = Lifespan(self._app)
        return lifespan


class ASGIResponse:
    """One request in the application's hands, and what it has answered so far."""

    def __init__(
        self, app: Application, scope: Message, body: bytes, *, raise_app_errors: bool
    ) -> None:
        self._app = app
        self._scope = scope
        self._body: bytes | None = body  # None when the application has it
        self._raise_app_errors = raise_app_errors
        self._status: int | None = None
        self._headers: Mapping[str, str] = {}
        self._pieces: deque[bytes] = deque()
        self._num_buffered_bytes = 0
        self._is_complete = False
        self._has_left = False
        self._problem: Exception | None = None
        self._changed = asyncio.Event()  # something came, or nothing will
        self._has_room = asyncio.Event()
        self._is_over = asyncio.Event()  # answered or left: the application has nobody to talk to
        self.task = asyncio.create_task(self._run())

    @property
    def status(self) -> int:
        assert self._status is not None
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    async def head_came(self) -> None:
        """Wait for the beginning of the answer."""
        while self._status is None:
            if self.task.done() or self._is_over.is_set():
                self._answer_for_the_application()
                return
            await self._change()

    @property
    def at_end(self) -> bool:
        return self._is_complete and not self._pieces

    def read_nowait(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._read(len(data))
        return data

    async def read_some(self) -> bytes:
        while not self._pieces:
            if self._is_complete:
                return b""
            if self._has_left:
                raise ConnectionLost("the connection was closed on this side")
            if self.task.done():
                self._raise_problem()
            await self._change()
        data = self._pieces.popleft()
        self._read(len(data))
        return data

    def abort(self) -> None:
        self._has_left = True
        self._is_complete = False
        self._pieces.clear()
        for event in (self._changed, self._has_room, self._is_over):
            event.set()

    async def aclose(self) -> None:
        if not self._is_complete or self._pieces:
            self.abort()
            await asyncio.sleep(0)  # the application learns of it in the loop's next turn

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as error:
            self._problem = error
        finally:
            # whoever reads looks at the task, which is done one turn from now
            asyncio.get_running_loop().call_soon(self._changed.set)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._is_over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._has_left:
            raise OSError("the client has left")
        kind = message["type"]
        if kind == "http.response.start" and self._status is None:
            self._status = int(message["status"])
            self._headers = Headers(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message.get("headers", ())
            )
        elif kind == "http.response.body" and self._status is not None and not self._is_complete:
            await self._take(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"the application sent {kind!r} out of turn")
        self._changed.set()

    async def _take(self, data: bytes, *, is_last: bool) -> None:
        if data and self._scope["method"] != "HEAD":
            self._pieces.append(bytes(data))
            self._num_buffered_bytes += len(data)
        self._is_complete = is_last
        self._changed.set()
        if is_last:
            self._is_over.set()
        elif self._num_buffered_bytes > MAX_BUFFERED_BYTES:
            self._has_room.clear()
            await self._has_room.wait()
            if self._has_left:
                raise OSError("the client has left")

    def _read(self, num_bytes: int) -> None:
        self._num_buffered_bytes -= num_bytes
        if self._num_buffered_bytes <= MAX_BUFFERED_BYTES:
            self._has_room.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _raise_problem(self) -> None:
        """The application ended in the middle of its answer."""
        if self._problem is not None and self._raise_app_errors:
            raise self._problem
        raise ConnectionLost(
            f"the application ended before its answer did ({self._problem or 'it returned'})"
        ) from self._problem

    def _answer_for_the_application(self) -> None:
        """It ended before its answer began: what a server then does."""
        if self._has_left:
            raise ConnectionLost("the connection was closed on this side")
        if self._raise_app_errors:
            raise self._problem or RuntimeError("the application returned without an answer")
        self._status = 500
        self._headers = Headers([("content-type", "text/plain; charset=utf-8")])
        body = b"Internal Server Error"
        self._pieces.append(body)
        self._num_buffered_bytes = len(body)
        self._is_complete = True


def _scope(request: WireRequest, *, root_path: str, lifespan: Lifespan) -> Message:
    parts = urlsplit(request.url)
    body = request.body or b""
    headers = {
        "host": parts.netloc,
        **({"content-length": str(len(body))} if request.body is not None else {}),
        **{name.lower(): value for name, value in request.headers.items()},
    }
    path = parts.path or "/"
    return {
        "type": "http",
        "asgi": VERSIONS,
        "http_version": "1.1",
        "method": request.method,
        "scheme": parts.scheme,
        "path": root_path + unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": parts.query.encode("ascii"),
        "root_path": root_path,
        "headers": [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
        ],
        "client": _ADDRESS,
        "server": (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)),
        "state": lifespan.state.copy(),
    }
