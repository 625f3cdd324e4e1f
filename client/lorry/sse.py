"""Server-sent events, decoded from bytes as they arrive: no I/O and no text before the end."""

from __future__ import annotations

import msgspec

_BOM = b"\xef\xbb\xbf"
_PLAIN_DATA = b"data: "
_MAX_DIGITS = 18


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event. `data` is the UTF-8 that was sent, its lines joined by LF."""

    data: bytes
    event: str = "message"
    last_event_id: str = ""

    @property
    def text(self) -> str:
        """`data` decoded as the standard says: bytes that are not UTF-8 become U+FFFD."""
        return self.data.decode("utf-8", "replace")


class SSEDecoder:
    """Decodes one stream by the WHATWG "event stream interpretation" rules.

    Lines end with LF, CR or CRLF and nothing else: U+2028 and its kin stay inside the data. Work is
    linear in the bytes fed, however they are cut. An event that the stream's end leaves unfinished
    is dropped, as the standard says; whether that was a truncation is the caller's question.
    """

    def __init__(self) -> None:
        self.retry_ms: int | None = None  # the last valid `retry:` field
        self.num_comments = 0
        self._head: bytes | None = b""  # the first bytes, until it is known whether a BOM leads
        self._after_cr = False
        self._unfinished_line: list[bytes] = []
        self._data: list[bytes] = []
        self._event = ""
        self._last_event_id = ""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events that `data` completes, in order."""
        # nearly all reads of a stream are one line of data and the empty line behind it
        if (
            data.startswith(_PLAIN_DATA)
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n")
            and b"\r" not in data
            and not (self._data or self._unfinished_line or self._event)
            and not (self._head or self._after_cr)
        ):
            self._head = None
            return [ServerSentEvent(data[len(_PLAIN_DATA) : -2], "message", self._last_event_id)]
        if self._head is not None:
            data = self._head + data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._head = data
                return []
            self._head = None
            data = data.removeprefix(_BOM)
        if not data:
            return []
        if self._after_cr and data[0] == 0x0A:
            # the CR ended its line when it came; this LF is its other half
            data = data[1:]
        self._after_cr = data.endswith(b"\r") if data else False
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

        lines = data.split(b"\n")
        unfinished = lines.pop()
        if lines and self._unfinished_line:
            self._unfinished_line.append(lines[0])
            lines[0] = b"".join(self._unfinished_line)
            self._unfinished_line.clear()
        if unfinished:
            self._unfinished_line.append(unfinished)
        return self._interpret(lines)

    def _interpret(self, lines: list[bytes]) -> list[ServerSentEvent]:
        events: list[ServerSentEvent] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(self._dispatch())
                self._event = ""
                continue
            if line.startswith(_PLAIN_DATA):  # as nearly all lines of a stream do
                self._data.append(line[len(_PLAIN_DATA) :])
                continue
            name, _, value = line.partition(b":")
            if value.startswith(b" "):
                value = value[1:]
            if name == b"data":
                self._data.append(value)
            elif not name:
                self.num_comments += 1
            else:
                self._set_field(name, value)
        return events

    def _dispatch(self) -> ServerSentEvent:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        return ServerSentEvent(data, self._event or "message", self._last_event_id)

    def _set_field(self, name: bytes, value: bytes) -> None:
        if name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._last_event_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():  # bytes.isdigit knows ASCII digits only
            value = value.lstrip(b"0") or b"0"
            # what has more digits than a century has milliseconds is as good as that many
            self.retry_ms = int(value) if len(value) <= _MAX_DIGITS else 10**_MAX_DIGITS
