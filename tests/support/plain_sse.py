"""The standard's event-stream interpretation, one character after another: slow and plain.

https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.5 and 9.2.6. It decodes the
whole stream first, as the standard does, and so shares no step with `lorry.sse`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlainEvent:
    data: str
    event: str
    last_event_id: str


def plain_events(stream: bytes) -> list[PlainEvent]:
    text = stream.decode("utf-8", "replace")
    if text.startswith("\ufeff"):
        text = text[1:]
    events: list[PlainEvent] = []
    data, kind, last_id = "", "", ""
    for line in finished_lines(text):
        if line == "":
            if data != "":
                events.append(PlainEvent(data.removesuffix("\n"), kind or "message", last_id))
            data, kind = "", ""
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data += value + "\n"
            elif field == "event":
                kind = value
            elif field == "id" and "\0" not in value:
                last_id = value
    return events


def finished_lines(text: str) -> list[str]:
    lines, line, position = [], "", 0
    while position < len(text):
        character = text[position]
        if character in "\r\n":
            lines.append(line)
            line = ""
            if character == "\r" and text[position + 1 : position + 2] == "\n":
                position += 1
        else:
            line += character
        position += 1
    return lines
