"""How errors look on the wire: OpenAI's shape under `/v1`, LoRAX's and TGI's everywhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from lorry.types.errors import ErrorBody, ErrorDetail, LoraxErrorBody
from lorry_server.errors import (
    AdapterCapacityError,
    AdapterLoadError,
    AdapterNotReadyError,
    CapacityError,
    DeadlineExceededError,
    DrainingError,
    EngineDeadError,
    LorryServerError,
    NotFoundError,
    RequestError,
)
from lorry_server.http.generation import GenerationError
from lorry_server.http.json_response import json_response

# A dead engine means that the process is ending; a new one takes some seconds to load the model.
DEAD_RETRY_AFTER_S = 10.0
INTERNAL_MESSAGE = "The server met an error of its own; its log has the details."


@dataclass(frozen=True, slots=True, kw_only=True)
class WireError:
    """One error in the words of both families."""

    status: int
    message: str
    openai_type: str
    lorax_type: str
    param: str | None = None
    code: str | None = None
    lorax_status: int | None = None  # None: as `status`
    lorax_message: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def openai_body(self) -> ErrorBody:
        return ErrorBody(
            ErrorDetail(
                message=self.message, type=self.openai_type, param=self.param, code=self.code
            )
        )

    def lorax_body(self) -> LoraxErrorBody:
        return LoraxErrorBody(error=self.lorax_message or self.message, error_type=self.lorax_type)


def is_openai_path(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def error_response(error: WireError, path: str) -> Response:
    """Return `error` as the family of routes that `path` belongs to answers it."""
    if is_openai_path(path):
        return json_response(error.openai_body(), status=error.status, headers=error.headers)
    status = error.lorax_status or error.status
    return json_response(error.lorax_body(), status=status, headers=error.headers)


def wire_error(exc: Exception) -> WireError:
    """Describe any exception; one that is not ours says nothing of what happened inside."""
    if isinstance(exc, NotFoundError):
        return not_found_error(exc)
    if isinstance(exc, RequestError):
        return request_error(exc)
    if isinstance(exc, AdapterNotReadyError):
        return adapter_not_ready_error(exc)
    if isinstance(exc, CapacityError):
        return capacity_error(exc)
    if isinstance(exc, AdapterLoadError):
        return adapter_load_error(exc)
    if isinstance(exc, EngineDeadError):
        return WireError(
            status=503,
            message="The engine has failed; the server is about to end.",
            openai_type="server_error",
            lorax_type="generation",
            code="engine_dead",
            headers=retry_headers(DEAD_RETRY_AFTER_S),
        )
    if isinstance(exc, GenerationError):
        return generation_error(exc)
    if isinstance(exc, DeadlineExceededError):
        return deadline_error(exc)
    return WireError(
        status=500,
        message=str(exc) if isinstance(exc, LorryServerError) else INTERNAL_MESSAGE,
        openai_type="server_error",
        lorax_type="generation",
        code="internal_error",
    )


def request_error(exc: RequestError) -> WireError:
    is_validation = exc.error_type == "validation" and exc.status == 400
    return WireError(
        status=exc.status,
        message=str(exc),
        openai_type="invalid_request_error",
        param=exc.param,
        code=exc.code,
        lorax_type=exc.error_type,
        lorax_status=422 if exc.status == 400 else exc.status,
        lorax_message=f"Input validation error: {exc}" if is_validation else None,
        headers=request_error_headers(exc.status),
    )


def request_error_headers(status: int) -> dict[str, str]:
    if status in (408, 413, 415, 431):
        # The rest of a body that was too long, too slow or never wanted is not read.
        return {"connection": "close"}
    if status == 409:
        return {"x-should-retry": "false"}  # some clients would
    return {}


def not_found_error(exc: NotFoundError) -> WireError:
    """LoRAX knows an adapter only by loading it, so to its clients a wrong name fails there."""
    return WireError(
        status=exc.status,
        message=str(exc),
        openai_type="invalid_request_error",
        param=exc.param,
        code=exc.code,
        lorax_type="generation",
        lorax_status=424,
        lorax_message=f"Request failed during generation: {exc}",
    )


def capacity_error(exc: CapacityError) -> WireError:
    is_draining = isinstance(exc, DrainingError)
    code = "draining" if is_draining else "queue_full"
    lorax_message = "Model is overloaded"
    if isinstance(exc, AdapterCapacityError):
        code = "adapters_full"
        lorax_message = f"Model is overloaded: {exc}"
    headers = retry_headers(exc.retry_after_s)
    if is_draining:
        headers["connection"] = "close"
    return WireError(
        status=503,
        message=f"The server cannot take this request now: {exc}",
        openai_type="overloaded_error",
        code=code,
        lorax_type="overloaded",
        lorax_status=429,
        lorax_message=lorax_message,
        headers=headers,
    )


def adapter_not_ready_error(exc: AdapterNotReadyError) -> WireError:
    return WireError(
        status=503,
        message=str(exc),
        openai_type="overloaded_error",
        code="adapter_loading",
        lorax_type="generation",
        lorax_status=424,
        lorax_message=f"Request failed during generation: {exc}",
        headers=retry_headers(exc.retry_after_s),
    )


def adapter_load_error(exc: AdapterLoadError) -> WireError:
    """The request is well-formed and what it depends on is not: 424, as LoRAX answers it."""
    return WireError(
        status=424,
        message=str(exc),
        openai_type="invalid_request_error",
        param="model",
        code="adapter_load_failed",
        lorax_type="generation",
        lorax_message=f"Request failed during generation: {exc}",
        headers={"x-should-retry": "false"},
    )


def generation_error(exc: GenerationError) -> WireError:
    if exc.was_ended:
        return WireError(
            status=503,
            message=f"{exc}",
            openai_type="server_error",
            code="ended_by_server",
            lorax_type="incomplete_generation",
            lorax_status=500,
            lorax_message="Incomplete generation",
            headers={"x-should-retry": "false"},
        )
    return WireError(
        status=500,
        message=f"Generation failed: {exc}",
        openai_type="server_error",
        code="generation_failed",
        lorax_type="generation",
        lorax_status=424,
        lorax_message=f"Request failed during generation: {exc}",
        headers={"x-should-retry": "false"},
    )


def deadline_error(exc: DeadlineExceededError) -> WireError:
    """408, not 504: the limit is the client's own and no fault of this server.

    Proxies count 504 against a server and clients of LoRAX send such a request again, when nobody
    waits for it any more.
    """
    return WireError(
        status=408,
        message=f"Deadline exceeded: {exc}.",
        openai_type="timeout_error",
        param="x-request-timeout-ms",
        code="deadline_exceeded",
        lorax_type="deadline_exceeded",
        headers={"x-should-retry": "false"},
    )


def retry_headers(retry_after_s: float) -> dict[str, str]:
    """For a request that was never admitted: sending it again costs nothing twice."""
    return {
        "retry-after": str(max(1, math.ceil(retry_after_s))),
        "retry-after-ms": str(max(1, math.ceil(retry_after_s * 1000))),
        "x-should-retry": "true",
    }


def route_error(status: int, path: str, *, allow: str | None = None) -> WireError:
    """A path that is not served, or not with this method but with those of `allow`."""
    if status == 404:
        return WireError(
            status=404,
            message="No such route. GET /openapi.json lists those there are.",
            openai_type="invalid_request_error",
            code="route_not_found",
            lorax_type="not_found",
        )
    return WireError(
        status=status,
        message=f"This route does not answer this method; it allows {allow}.",
        openai_type="invalid_request_error",
        code="method_not_allowed",
        lorax_type="method_not_allowed",
        headers={"allow": allow} if allow else {},
    )


async def handle_error(request: Request, exc: Exception) -> Response:
    return error_response(wire_error(exc), request.scope["path"])
