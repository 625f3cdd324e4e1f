"""Reads a JSONL file of training data: one conversation, completion or plain text a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_server.errors import StartupError

MAX_REASONS_SHOWN = 10
KEYS_OF_SHAPE = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion"),
    "text": ("text",),
}
# They would change what is to be learned, so they are not passed over as other keys are.
MEANINGFUL_KEYS = frozenset(
    {
        *("tools", "functions", "function_call", "tool_choice", "parallel_tool_calls"),
        *("images", "image", "audio", "audios", "videos"),
        *("chosen", "rejected", "label", "labels", "weight", "system", "input", "output"),
    }
)


class DataError(StartupError):
    """Training data that cannot be used; the message names the lines and their faults."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """`{"messages": [...]}`: each answer of the assistant is learned after what precedes it."""

    messages: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """`{"prompt": ..., "completion": ...}`: text that continues text, without a chat template."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class PlainText:
    """`{"text": ...}`: learned whole."""

    text: str


Shape = Conversation | Completion | PlainText


@dataclass(frozen=True, slots=True)
class Line:
    """`number` counts from 1; `ignored` are keys that mean nothing to training."""

    number: int
    shape: Shape
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BadLine:
    number: int
    reason: str


def parse_lines(raw: bytes) -> tuple[list[Line], list[BadLine]]:
    """Parse every line of a file's bytes; blank ones are passed over."""
    lines: list[Line] = []
    bad: list[BadLine] = []
    for number, row in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not row.strip():
            continue
        try:
            lines.append(_parse(number, row))
        except ValueError as exc:
            bad.append(BadLine(number, str(exc)))
    return lines, bad


def describe_bad_lines(path: Path, bad: Iterable[BadLine], *, num_lines: int) -> str:
    """What is wrong with which lines, the first ten of them."""
    rows = sorted(bad, key=lambda line: line.number)
    told = [f"  line {line.number}: {line.reason}" for line in rows[:MAX_REASONS_SHOWN]]
    if len(rows) > MAX_REASONS_SHOWN:
        told.append(f"  and {len(rows) - MAX_REASONS_SHOWN} more")
    return "\n".join(
        [f"{path.name}: {len(rows)} of {num_lines} lines cannot be learned from", *told]
    )


def _parse(number: int, row: bytes) -> Line:
    try:
        entry = json.loads(row.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise ValueError(f"not UTF-8 (byte {exc.start})") from exc
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    except json.JSONDecodeError as exc:
        raise ValueError(f"not JSON: {exc.msg} at character {exc.pos + 1}") from exc
    if not isinstance(entry, dict):
        raise ValueError(f"a JSON object is wanted, not {_kind(entry)}")
    found = [shape for shape in KEYS_OF_SHAPE if shape in entry]
    if len(found) != 1:
        wanted = 'one of "messages", "prompt" with "completion", or "text" is wanted'
        raise ValueError(f"{wanted}; the line has {_listed(entry) or 'nothing'}")
    others = [key for key in entry if key not in KEYS_OF_SHAPE[found[0]]]
    for key in others:
        if key in MEANINGFUL_KEYS:
            raise ValueError(f'"{key}" is not supported')
    return Line(number, _shape(found[0], entry), tuple(others))


def _shape(kind: str, entry: dict[str, Any]) -> Shape:
    if kind == "text":
        return PlainText(_text(entry, "text"))
    if kind == "prompt":
        if "completion" not in entry:
            raise ValueError('"prompt" has no "completion" beside it')
        if isinstance(entry["prompt"], list):
            raise ValueError('"prompt" must be text; write a conversation as "messages"')
        return Completion(_text(entry, "prompt"), _text(entry, "completion"))
    messages = entry["messages"]
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise ValueError('"messages" must be a list of objects with "role" and "content"')
    return Conversation(tuple(messages))


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise ValueError(f'"{key}" must be text, not {_kind(value)}')
    if not value.strip():
        raise ValueError(f'"{key}" is empty')
    return value


def _listed(entry: dict[str, Any]) -> str:
    return ", ".join(f'"{key:.40}"' for key in list(entry)[:6])


def _kind(value: object) -> str:
    names: dict[type, str] = {
        **{list: "a list", dict: "an object", str: "text", bool: "true or false"},
        **{int: "a number", float: "a number", type(None): "null"},
    }
    return names[type(value)]
