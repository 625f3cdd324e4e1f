"""The client's settings: arguments first, then the environment, then defaults.

The one place that reads the client's environment: LORRY_BASE_URL, LORRY_API_KEY, LORRY_TIMEOUT
(seconds for a whole call), which are read when a client is made, and TERM.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lorry._version import __version__
from lorry.errors import ConfigError
from lorry.options import as_timeout
from lorry.timeout import Timeout

DEFAULT_BASE_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What every call of one client shares. Key and headers are in no repr."""

    base_url: str
    timeout: Timeout
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_config(
    *,
    base_url: str | None,
    api_key: str | None,
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
    if api_key is not None:
        all_headers["authorization"] = f"Bearer {_checked_key(api_key)}"
    all_headers.update({name.lower(): value for name, value in (headers or {}).items()})
    return ClientConfig(
        base_url=_checked_url(base_url or environ.get("LORRY_BASE_URL") or DEFAULT_BASE_URL),
        timeout=_timeout(timeout, environ.get("LORRY_TIMEOUT")),
        api_key=api_key,
        headers=all_headers,
    )


def _timeout(given: Timeout | float | None, variable: str | None) -> Timeout:
    try:
        if given is None and variable:
            return as_timeout(float(variable), default=Timeout())
        return as_timeout(given, default=Timeout())
    except ValueError as error:
        source = "timeout" if given is not None else "LORRY_TIMEOUT"
        raise ConfigError(f"{source} is wrong: {error}") from error


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"base_url is {base_url!r}; it must be like http://host:port or https://host"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError("base_url holds a user name or password; give api_key or headers instead")
    if parts.query or parts.fragment:
        raise ConfigError(f"base_url is {base_url!r}; it must not have a query or a fragment")
    # addresses for OpenAI's client end with the version, which our paths begin with
    return base_url.rstrip("/").removesuffix("/v1")


def _checked_key(api_key: str) -> str:
    if not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError("api_key holds characters that a header cannot carry")
    return api_key


def terminal_is_plain() -> bool:
    """Whether the terminal says of itself that it can only add text at its end."""
    return os.environ.get("TERM", "dumb") == "dumb"
