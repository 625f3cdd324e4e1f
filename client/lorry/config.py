"""The client's settings: arguments first, then the environment, then defaults.

The one place that reads the client's environment: LORRY_BASE_URL (several with
commas between them), LORRY_API_KEY, LORRY_TIMEOUT (seconds for a whole call), which are read when a
client is made, and TERM.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from lorry._version import __version__
from lorry.endpoints import Endpoint, EndpointLike, as_endpoints
from lorry.errors import ConfigError
from lorry.options import as_timeout
from lorry.timeout import Timeout

# a key, or a function that is asked for one before each attempt
KeySource: TypeAlias = str | Callable[[], Awaitable[str]]

DEFAULT_BASE_URL = "http://127.0.0.1:8000"

# a token, RFC 9110, 5.6.2
_IN_HEADER_NAMES = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
# RFC 9112, 6: where a message ends, which two answers to would let be mistaken
_FRAMING = frozenset({"content-length", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What every call of one client shares. Key and headers are in no repr."""

    endpoints: tuple[Endpoint, ...]
    timeout: Timeout
    api_key: str | None = field(default=None, repr=False)
    make_key: Callable[[], Awaitable[str]] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def base_url(self) -> str:
        """The address of the one server. Raises ConfigError if there are several."""
        if len(self.endpoints) > 1:
            urls = ", ".join(endpoint.url for endpoint in self.endpoints)
            raise ConfigError(
                f"this client has several servers ({urls}); say which by client.at(url)"
            )
        return self.endpoints[0].url


def read_config(
    *,
    base_url: EndpointLike | Sequence[EndpointLike] | None,
    api_key: KeySource | None,
    timeout: Timeout | float | None,
    headers: Mapping[str, str] | None,
) -> ClientConfig:
    """Settle the settings; raises ConfigError that names the wrong one."""
    environ = os.environ
    if api_key is None:
        api_key = environ.get("LORRY_API_KEY") or None
    all_headers = {
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": f"lorry/{__version__}",
    }
    make_key = None
    if callable(api_key):
        make_key, api_key = api_key, None
    elif api_key is not None:
        all_headers["authorization"] = f"Bearer {_checked_key(api_key)}"
    all_headers.update(checked_headers(headers))
    return ClientConfig(
        endpoints=as_endpoints(_settled(base_url, environ.get("LORRY_BASE_URL"))),
        timeout=_timeout(timeout, environ.get("LORRY_TIMEOUT")),
        api_key=api_key,
        make_key=make_key,
        headers=all_headers,
    )


def changed_config(
    config: ClientConfig,
    *,
    timeout: Timeout | float | None = None,
    headers: Mapping[str, str] | None = None,
) -> ClientConfig:
    """The same settings but for those that are given; headers are added. Raises ConfigError."""
    try:
        limits = as_timeout(timeout, default=config.timeout)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"timeout is wrong: {error}") from error
    all_headers = {**config.headers, **checked_headers(headers)}
    return replace(config, timeout=limits, headers=all_headers)


def checked_headers(given: Mapping[str, str] | None) -> dict[str, str]:
    """The headers with their names in small letters.

    Raises ConfigError for what cannot be sent, and says the name only: the value may be a key. A
    library below would find it too, and show it.
    """
    headers = {}
    if not isinstance(given, Mapping | None):
        raise ConfigError(f"headers is a {type(given).__name__}; it must be a dict")
    for name, value in (given or {}).items():
        if not (isinstance(name, str) and name and _IN_HEADER_NAMES.issuperset(name.lower())):
            raise ConfigError(f"headers has {name!r}, which is not the name of a header")
        if not (isinstance(value, str) and value.replace("\t", " ").isprintable()):
            raise ConfigError(
                f"the header {name!r} has a value that cannot be sent; it must be a string without "
                "line ends or other control characters"
            )
        if name.lower() in _FRAMING:
            raise ConfigError(
                f"headers has {name!r}, which says how a body is sent: that is lorry's"
            )
        headers[name.lower()] = value
    return headers


def _timeout(given: Timeout | float | None, variable: str | None) -> Timeout:
    try:
        if given is None and variable:
            return as_timeout(float(variable), default=Timeout())
        return as_timeout(given, default=Timeout())
    except (TypeError, ValueError) as error:
        source = "timeout" if given is not None else "LORRY_TIMEOUT"
        raise ConfigError(f"{source} is wrong: {error}") from error


def _settled(
    given: EndpointLike | Sequence[EndpointLike] | None, variable: str | None
) -> EndpointLike | Sequence[EndpointLike]:
    if given is not None and given != "":
        return given
    if variable:
        return [url.strip() for url in variable.split(",")]
    return DEFAULT_BASE_URL


def _checked_key(api_key: str) -> str:
    if not isinstance(api_key, str):
        raise ConfigError(f"api_key is a {type(api_key).__name__}; it must be a string or function")
    if not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError("api_key holds characters that a header cannot carry")
    return api_key


def terminal_is_plain() -> bool:
    """Whether the terminal says of itself that it can only add text at its end."""
    return os.environ.get("TERM", "dumb") == "dumb"
