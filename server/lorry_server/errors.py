"""The server's errors.

LorryServerError
  RequestError              4xx: the request is at fault; message is for its sender
    NotFoundError           404
    AdapterExistsError      400: a name that something is loaded as
  AdapterLoadError          424: an adapter that the request needs cannot be loaded
  CapacityError             429 on LoRAX routes, 503 on OpenAI's; has retry_after_s
    QueueFullError
    DrainingError
    AdapterCapacityError    adapters in use, pinned or being loaded leave no room for one more
    AdapterNotReadyError    424 on LoRAX routes: an adapter is still being loaded
  DeadlineExceededError     408: the time that the client gave the request is over
  EngineDeadError           503: the engine has failed and the process is about to end
  StartupError              bad configuration, model or adapter: the process does not start
    ModelError
    AdapterError
"""

from __future__ import annotations


class LorryServerError(Exception):
    """Base of all. `str(error)` is a sentence that may be shown to whoever asked."""


class RequestError(LorryServerError):
    """A request that cannot be served as it stands.

    `param` names the field; `code` is OpenAI's machine-readable code, `error_type` LoRAX's.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        error_type: str = "validation",
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status
        self.error_type = error_type


class NotFoundError(RequestError):
    """An unknown model or adapter."""

    def __init__(self, message: str, *, param: str | None = "model") -> None:
        super().__init__(message, param=param, code="model_not_found", status=404)


class AdapterExistsError(RequestError):
    """A name that is taken, and the request did not say that it may be replaced."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"an adapter {name!r} has been loaded already", param="name", code="adapter_exists"
        )


class AdapterLoadError(LorryServerError):
    """An adapter is known and cannot be loaded; the message says why.

    `is_missing` tells a source where nothing is from one that holds something unusable.
    """

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class CapacityError(LorryServerError):
    """The request was not accepted and may be sent again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFullError(CapacityError):
    """As many requests wait as are allowed to."""


class DrainingError(CapacityError):
    """The server is finishing what it accepted and takes nothing new."""


class AdapterCapacityError(CapacityError):
    """Adapters in use or pinned fill the memory, or as many are being loaded as may be at once."""


class AdapterNotReadyError(CapacityError):
    """An adapter is being loaded, and the request has waited for it as long as it may."""


PHASES = {
    "preparing": "it was being read, or waited for its adapter",
    "waiting": "it waited for its turn and was not computed",
    "running": "its answer was being computed",
    "joined": "the answer that it shares with others of its idempotency key was being made",
}


class DeadlineExceededError(LorryServerError):
    """The time that the client gave the request was over before its answer was complete.

    `phase` is one of `PHASES`: how far it was.
    """

    def __init__(self, phase: str) -> None:
        super().__init__(
            f"the time that `x-request-timeout-ms` gave this request was over while {PHASES[phase]}"
        )
        self.phase = phase


class EngineDeadError(LorryServerError):
    """The engine thread has ended by a fault; nothing more will be generated."""


class StartupError(LorryServerError):
    """The server cannot start; the message says what to change."""


class ModelError(StartupError):
    """A model that cannot be found, read or served."""


class AdapterError(StartupError):
    """An adapter that cannot be read, or does not fit the base model."""
