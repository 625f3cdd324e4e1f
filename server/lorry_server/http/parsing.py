"""From the bytes of a body to a struct of the wire schema, or to an error that names the field."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from lorry_server.errors import RequestError

T = TypeVar("T")

# Decoding more than this takes long enough to be felt by the streams on the same event loop.
MAX_BYTES_ON_LOOP = 64 * 1024
MAX_SHOWN_CHARS = 64

# Takes out of a decoded body what the schema does not know and may be let through.
Prepare = Callable[[dict[str, Any]], None]

# The decoder looks for the other half of a surrogate pair beyond the end.
BETTER_REASONS = {
    "Input data was truncated": "it ends too early, or its last string has half a surrogate pair"
}

_PATH = re.compile(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`$")


async def parse_body(
    request: Request,
    kind: type[T],
    *,
    timeout_s: float,
    prepare: Prepare | None = None,
) -> T:
    """Read the body of `request` within `timeout_s` and convert it to `kind`.

    Raises `RequestError`: 408 when the body does not arrive, 413 when it is too long, and 400 for
    everything else.
    """
    body = await read_body(request, timeout_s=timeout_s)
    if len(body) > MAX_BYTES_ON_LOOP:
        return await asyncio.to_thread(decode_body, body, kind, prepare=prepare)
    return decode_body(body, kind, prepare=prepare)


async def read_body(request: Request, *, timeout_s: float) -> bytes:
    """Return the body of `request`.

    Raises `RequestError`: 408 when it does not arrive in time, 413 when it is too long.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await request.body()
    except TimeoutError as exc:
        raise RequestError(
            f"the body did not arrive within {timeout_s:g} s", code="timeout", status=408
        ) from exc


def decode_body(body: bytes, kind: type[T], *, prepare: Prepare | None = None) -> T:
    """Convert JSON bytes to `kind`, strictly.

    Refused beyond what a lenient parser takes: repeated keys, NaN and infinities, half
    surrogates, unknown fields, and a value of one type in the place of another.
    """
    message = load_json(body)
    if not isinstance(message, dict):
        raise RequestError(f"the body must be a JSON object, not {shown(message)}")
    if prepare is not None:
        prepare(message)
    try:
        return msgspec.convert(message, kind)
    except msgspec.ValidationError as exc:
        raise field_error(str(exc), message) from exc


def load_json(body: bytes) -> Any:
    if not body.strip():
        raise RequestError("the body is empty; a JSON object is needed", code="invalid_json")
    try:
        message = msgspec.json.decode(body)
        # The decoder keeps the last of repeated keys. Then what one reader of the body has
        # checked is not what another one does, so a second pass looks for them.
        json.loads(body, object_pairs_hook=refuse_repeated_keys)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as exc:
        reason = BETTER_REASONS.get(str(exc), str(exc))
        raise RequestError(f"the body is not valid JSON: {reason}", code="invalid_json") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply", code="invalid_json") from exc
    return message


def refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(repeated)} is there twice")


def field_error(reason: str, message: dict[str, Any]) -> RequestError:
    """Make msgspec's words about one value name the field and show the value."""
    reason, _, path = reason.partition(" - at `")
    path = path.removeprefix("$").removesuffix("`")
    prefix = path.removeprefix(".") + "." if path else ""
    if unknown := _UNKNOWN.match(reason):
        name = prefix + unknown.group(1)[:MAX_SHOWN_CHARS]
        return RequestError(
            f"unknown field {shown(name)}", param=shown(name)[1:-1], code="unknown_parameter"
        )
    if missing := _MISSING.match(reason):
        name = prefix + missing.group(1)
        return RequestError(f"`{name}` is required", param=name, code="missing_required_parameter")
    name = path.removeprefix(".")
    value = value_at(message, path)
    return RequestError(
        f"`{name}`: {reason[0].lower()}{reason[1:]}. Given: {shown(value)}",
        param=name,
        code="invalid_value",
    )


def value_at(message: Any, path: str) -> Any:
    """Follow a path such as `.messages[0].content` as far as it names one value."""
    value = message
    for field, index, anywhere in _PATH.findall(path):
        if anywhere:
            break
        value = value[field] if field else value[int(index)]
    return value


def shown(value: Any) -> str:
    """Return a short, printable, one-line picture of a client's value."""
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list | tuple) and len(value) > 4:
        return f"a list of {len(value)} values"
    if isinstance(value, str):
        value = value if len(value) <= MAX_SHOWN_CHARS else value[:MAX_SHOWN_CHARS] + "..."
    text = json.dumps(value)
    return text if len(text) <= 2 * MAX_SHOWN_CHARS else text[: 2 * MAX_SHOWN_CHARS] + "..."
