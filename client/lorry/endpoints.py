"""`Endpoint`: one server of a client that has several, and how addresses are checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from lorry.errors import ConfigError

EndpointLike: TypeAlias = "str | Endpoint"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's address, and how many times the share of others it is to have.

    Raises ConfigError for an address that is none, ValueError for a weight that is not positive.
    """

    url: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"the weight of an endpoint is {self.weight}; it must be positive")
        object.__setattr__(self, "url", _checked_url(self.url))


def as_endpoints(given: EndpointLike | Sequence[EndpointLike]) -> tuple[Endpoint, ...]:
    """One address or several, each once. Raises ConfigError otherwise."""
    if isinstance(given, (str, Endpoint)):
        given = [given]
    if not isinstance(given, Sequence):
        raise ConfigError(f"base_url is a {type(given).__name__}; it must be an address, or a list")
    several = list(given)
    if not several:
        raise ConfigError("base_url is an empty list; it must have at least one address")
    endpoints = tuple(_as_endpoint(item) for item in several)
    urls = [endpoint.url for endpoint in endpoints]
    for url in urls:
        if urls.count(url) > 1:
            raise ConfigError(f"base_url has {url} more than once; use Endpoint(url, weight=...)")
    return endpoints


def _as_endpoint(given: EndpointLike) -> Endpoint:
    if isinstance(given, Endpoint):
        return given
    if isinstance(given, str):
        return Endpoint(given)
    raise ConfigError(f"base_url holds a {type(given).__name__}; it must hold addresses")


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"base_url is {url!r}: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError("base_url holds a user name or password; give api_key or headers instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url is {url!r}; it must be like http://host:port or https://host")
    if parts.query or parts.fragment:
        raise ConfigError(f"base_url is {url!r}; it must not have a query or a fragment")
    # addresses for OpenAI's client end with the version, which our paths begin with
    return url.rstrip("/").removesuffix("/v1")
