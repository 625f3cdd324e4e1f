"""`client.openai()`: the `openai` package over this client's connections, retries and timings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lorry.call_log import CallLog
from lorry.errors import ConfigError
from lorry.openai_bridge import NO_KEY, bridge
from lorry.session import Session
from lorry.timing import Timing

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# one owner each: this client has the addresses, the connections and the retries
_OURS = {
    "base_url": "AsyncClient(base_url=...)",
    "http_client": "AsyncClient(transport=...)",
    "max_retries": "AsyncClient(retry=...)",
}


def openai_client(session: Session, options: Mapping[str, Any]) -> AsyncOpenAI:
    """An `AsyncOpenAI` whose requests are calls of `session`; `options` are its own arguments.

    Raises ConfigError if the package is missing, and TypeError for an argument that is ours.
    """
    for name, instead in _OURS.items():
        if name in options:
            raise TypeError(f"client.openai() takes no {name!r}; use {instead}")
    openai = _imported("openai", needed_by="client.openai()")
    http_client = bridge(session, library=http_library(openai))
    arguments = {"api_key": session.config.api_key or NO_KEY, "timeout": None, **options}
    made: AsyncOpenAI = openai.AsyncOpenAI(
        base_url=f"{session.endpoints[0]}/v1",
        http_client=http_client,
        max_retries=0,
        **arguments,
    )
    return made


def http_library(openai: ModuleType) -> ModuleType:
    """The HTTP library that this version of `openai` speaks: httpx2 from 3 on, httpx before."""
    name = "httpx2" if int(openai.__version__.partition(".")[0]) >= 3 else "httpx"
    return _imported(name, needed_by=f"openai {openai.__version__}")


def timing_of(log: CallLog, answer: Any) -> Timing:
    """The timing of the call that `answer` is of: anything that names its request id.

    That is a completion, a stream, an error of `openai`, or the id itself. Raises LookupError for
    what names none, such as a single chunk of a stream.
    """
    request_id = _request_id(answer)
    if request_id is None:
        raise LookupError(
            f"a {type(answer).__name__} does not say which call it is of; give the completion, the "
            "stream, the error or the request id"
        )
    usage = getattr(answer, "usage", None)
    return log.timing(request_id, num_tokens=getattr(usage, "completion_tokens", None))


def _request_id(answer: Any) -> str | None:
    if isinstance(answer, str):
        return answer
    for name in ("_request_id", "request_id"):
        if request_id := getattr(answer, name, None):
            return str(request_id)
    for name in ("response", "request"):
        headers = getattr(getattr(answer, name, None), "headers", {})
        if request_id := headers.get("x-request-id"):
            return str(request_id)
    return None


def _imported(name: str, *, needed_by: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f'{needed_by} needs {name}: pip install "lorry[openai]"') from error
