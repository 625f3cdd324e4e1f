"""Splits a byte stream of server-sent events into the data of each event."""

from __future__ import annotations


class EventSplitter:
    """Feeds on bytes; holds back only what belongs to an unfinished event.

    Fields other than `data` and comment lines are skipped, as the WHATWG standard has it.
    """

    def __init__(self) -> None:
        self._partial_line = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that `data` completes, in order."""
        if not self._partial_line and not self._data and data[:6] == b"data: ":
            # mostly one whole event comes at a time
            line = data[6:-2]
            if data[-2:] == b"\n\n" and b"\n" not in line and b"\r" not in line:
                return [line]
        events = []
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    @property
    def is_between_events(self) -> bool:
        return not self._data and not self._partial_line
