"""Reads public traces of LLM requests: when each came, how long its prompt and its answer were.

Three formats, told apart by what is in the file:

- Azure LLM inference, 2023 and 2024 (CSV: TIMESTAMP, ContextTokens, GeneratedTokens; Patel et al.,
  "Splitwise", ISCA 2024).
- BurstGPT (CSV: Timestamp, Model, Request tokens, Response tokens, perhaps Session ID; Wang et al.,
  arXiv 2401.17644). Requests that failed, those without an answer, are left out.
- Mooncake (JSON lines: timestamp in ms, input_length, output_length, hash_ids of blocks of 512 prompt
  tokens; Qin et al., FAST 2025). Equal ids become equal texts, so prefixes are shared as they were.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lorry_loadtest.conversation import Conversation

MOONCAKE_BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """`at_s` counts from the first request. `session` is one conversation or user, where told."""

    at_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    block_ids: tuple[int, ...] = ()
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their times, and the sessions among them by name."""

    name: str
    requests: tuple[TraceRequest, ...]
    sessions: Mapping[str, Conversation]


def read_trace(path: str | Path) -> Trace:
    """Raises OSError when there is no such file, ValueError when it is none of the formats."""
    path = Path(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        if first.lstrip().startswith("{"):
            found = _mooncake(file, path)
        else:
            found = _csv(csv.DictReader(file), path)
    if not found:
        raise ValueError(f"the trace {path} has no request")
    found.sort(key=lambda request: request.at_s)
    start_s = found[0].at_s
    requests = tuple(_shifted(request, start_s) for request in found)
    return Trace(path.name, requests, _sessions(requests))


def _sessions(requests: Iterable[TraceRequest]) -> dict[str, Conversation]:
    sessions: dict[str, Conversation] = {}
    for index, request in enumerate(requests):
        if request.session is not None and request.session not in sessions:
            sessions[request.session] = Conversation(len(sessions), index)
    return sessions


def _shifted(request: TraceRequest, start_s: float) -> TraceRequest:
    return TraceRequest(
        request.at_s - start_s,
        request.num_prompt_tokens,
        request.num_output_tokens,
        request.block_ids,
        request.session,
    )


class _MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def _mooncake(lines: Iterable[str], path: Path) -> list[TraceRequest]:
    decoder = msgspec.json.Decoder(_MooncakeLine)
    found = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = decoder.decode(text)
        except msgspec.MsgspecError as exc:
            raise ValueError(f"{path}, line {number}: {exc}") from exc
        found.append(
            TraceRequest(
                line.timestamp / 1000,
                max(1, line.input_length),
                max(1, line.output_length),
                line.hash_ids,
            )
        )
    return found


def _csv(rows: csv.DictReader[str], path: Path) -> list[TraceRequest]:
    columns = set(rows.fieldnames or ())
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= columns:
        read = _azure_row
    elif {"Timestamp", "Request tokens", "Response tokens"} <= columns:
        read = _burst_gpt_row
    else:
        raise ValueError(
            f"the trace {path} is none of Azure's (TIMESTAMP, ContextTokens, GeneratedTokens), "
            "BurstGPT's (Timestamp, Request tokens, Response tokens) and Mooncake's (JSON lines "
            f"with timestamp, input_length, output_length); it has {', '.join(sorted(columns))}"
        )
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            request = read(row)
        except (ValueError, TypeError) as exc:
            raise ValueError(f"{path}, line {number}: {exc}") from exc
        if request.num_output_tokens > 0:
            found.append(request)
    return found


def _azure_row(row: Mapping[str, str]) -> TraceRequest:
    return TraceRequest(
        _azure_seconds(row["TIMESTAMP"]),
        max(1, int(row["ContextTokens"])),
        int(row["GeneratedTokens"]),
    )


def _azure_seconds(text: str) -> float:
    """2023 has seven digits of a second and no zone, 2024 six and +00:00; Python reads six."""
    moment, dot, fraction = text.strip().partition(".")
    digits = fraction.split("+")[0].rstrip("Z")
    whole = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    if whole.tzinfo is None:
        whole = whole.replace(tzinfo=UTC)
    return whole.timestamp() + (float(f"0.{digits}") if dot else 0.0)


def _burst_gpt_row(row: Mapping[str, str]) -> TraceRequest:
    return TraceRequest(
        float(row["Timestamp"]),
        max(1, int(row["Request tokens"])),
        int(row["Response tokens"]),
        session=row.get("Session ID") or None,
    )
