"""`SourceUrl`: a URL of an adapter in the one form that is compared with the allowed ones.

A URL that can be written in two ways is two answers to the question whether it is allowed. So
nothing is normalised: what is not in the plain form already is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

MAX_URL_LENGTH = 2048

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_SEGMENT = re.compile(r"[A-Za-z0-9._~@+=,:-]+")
_WITH_HOST = ("http", "https")


@dataclass(frozen=True, slots=True)
class SourceUrl:
    """`path` is all that follows `://`, host or bucket included, without a slash at its end."""

    scheme: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def place(self) -> str:
        """The shortest prefix that a person would allow for it: scheme and host, or bucket."""
        if self.scheme == "file":
            return f"file://{self.path.rpartition('/')[0]}/"
        return f"{self.scheme}://{self.path.split('/')[0].partition('@')[0]}/"

    def is_below(self, prefix: SourceUrl) -> bool:
        """Whether it is `prefix` or lies below it, by whole segments."""
        if self.scheme != prefix.scheme:
            return False
        if prefix.path in ("", self.path) or self.path.startswith(prefix.path + "/"):
            return True
        # a revision of an allowed repository
        return self.scheme == "hf" and self.path.partition("@")[0] == prefix.path

    def below(self, name: str) -> SourceUrl:
        return SourceUrl(self.scheme, f"{self.path}/{name}" if self.path else name)


def is_url(text: str) -> bool:
    return "://" in text


def parse_url(text: str) -> SourceUrl:
    """Read the URL of an adapter's folder; raise ValueError with a sentence on any other form."""
    url = _parse(text)
    if not url.path:
        _refuse(text, "it names no folder")
    return url


def parse_prefix(text: str) -> SourceUrl:
    """Read what `--adapter-source` allows: a URL of which only the beginning need be given."""
    url = _parse(text)
    if not url.path and (url.scheme in _WITH_HOST or url.scheme == "file"):
        _refuse(text, "name a host" if url.scheme in _WITH_HOST else "name a folder")
    return url


def _parse(text: str) -> SourceUrl:
    if len(text) > MAX_URL_LENGTH:
        _refuse(text, f"it is longer than {MAX_URL_LENGTH} characters")
    scheme, separator, path = text.partition("://")
    if not separator:
        _refuse(text, "it is no URL")
    if _SCHEME.fullmatch(scheme) is None:
        _refuse(text, "write its scheme in lower case, as in s3://bucket/folder")
    if scheme == "local":
        _refuse(text, "write file:// and the path")
    path = path.removesuffix("/")
    segments = path.split("/") if path else []
    if scheme == "file" and segments:
        if segments[0]:
            _refuse(text, "a file:// URL has three slashes, as in file:///data/adapters")
        segments = segments[1:]
    for segment in segments:
        if segment in ("", ".", ".."):
            _refuse(text, "'.', '..' and empty parts are not allowed in it")
        if _SEGMENT.fullmatch(segment) is None or "::" in segment:
            _refuse(text, "it has letters other than A-Z a-z 0-9 . _ ~ @ + = , : - and /")
    if segments and "@" in segments[0] and scheme != "file":
        _refuse(text, "no user or password may be in it; the server's environment holds these")
    return SourceUrl(scheme, path)


def _refuse(text: str, reason: str) -> NoReturn:
    raise ValueError(f"the URL {without_secrets(text)[:128]!r} is not allowed: {reason}")


def without_secrets(text: str) -> str:
    """`text` for a message: what stands for user and password is left out, as `***`."""
    scheme, separator, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    if not separator or "@" not in host:
        return text
    return f"{scheme}://***@{host.rpartition('@')[2]}{slash}{path}"
