"""Where the server is: the parts of a base URL that a connection and a request need."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`base_path` has no slash at its end, and `tls` is true for https."""

    host: str
    port: int
    base_path: str
    tls: bool

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.base_path}"


def parse_endpoint(url: str) -> Endpoint:
    """Reads `http(s)://host[:port][/path]`; ValueError names what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} does not start with http:// or https://")
    if not parts.hostname:
        raise ValueError(f"{url!r} names no host")
    if parts.query or parts.fragment or parts.username:
        raise ValueError(f"{url!r} may have no user, query or fragment")
    try:
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"{url!r} has a wrong port: {exc}") from exc
    tls = parts.scheme == "https"
    return Endpoint(
        host=parts.hostname,
        port=port or (443 if tls else 80),
        base_path=parts.path.rstrip("/").removesuffix("/v1"),
        tls=tls,
    )
