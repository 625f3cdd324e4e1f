"""PEFT's matching of `rank_pattern` and `alpha_pattern`, without running a stranger's expression.

PEFT reads such a key as a regular expression, `(.*\\.)?(key)$`, and takes the first that matches. An
expression can be made to run for years, so only plain names are taken: letters, digits, `_` and
`.`, with a `^` before or a `$` behind. A `.` matches any character, as it does there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_PATTERN = 256
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.]+\$?")


def is_plain(pattern: str) -> bool:
    """Whether `matches` can be asked about the pattern."""
    return len(pattern) <= MAX_PATTERN and _PLAIN.fullmatch(pattern) is not None


def first_match(patterns: Iterable[str], module: str) -> str | None:
    """The first of the plain patterns that names the module, in their own order."""
    return next((pattern for pattern in patterns if matches(pattern, module)), None)


def matches(pattern: str, module: str) -> bool:
    """Whether a plain pattern names the module, by its whole path or by the end of it."""
    name = pattern.removesuffix("$")
    if name.startswith("^"):
        return _equals(name[1:], module)
    start = len(module) - len(name)
    begins_a_name = start == 0 or (start > 0 and module[start - 1] == ".")
    return begins_a_name and _equals(name, module[start:])


def _equals(pattern: str, text: str) -> bool:
    return len(pattern) == len(text) and all(
        wanted in (".", given) for wanted, given in zip(pattern, text, strict=True)
    )
