"""`ChunkedConnection`: h11 with a short way for the parts of a chunked body."""

from __future__ import annotations

import h11

CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"


class ChunkedConnection(h11.Connection):
    """Frames each part of a stream's body (RFC 9112, section 7.1) without h11's state machine.

    Between the head and the end of such a body a part changes no state, so there is nothing to
    check; everything else takes h11's own way.
    """

    _is_inside_body = False

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        if self._is_inside_body and isinstance(event, h11.Data):
            # An empty chunk would be the end of the body.
            return [b"%x\r\n" % len(event.data), event.data, b"\r\n"] if event.data else []
        sent = super().send_with_data_passthrough(event)
        self._is_inside_body = (
            isinstance(event, h11.Response) and CHUNKED in b"".join(sent or ()).lower()
        )
        return sent
