"""Serve the files of a folder over HTTP on loopback, at a few megabytes a second: a slow source.

    python slow_files.py FOLDER BYTES_PER_SECOND

Prints its port on the first line and ends when its input does.
"""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE_S = 0.05


def main() -> None:
    folder, rate = Path(sys.argv[1]), float(sys.argv[2])

    class SlowFiles(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            file = self._head()
            if file is None:
                return
            piece = max(1, int(rate * PIECE_S))
            with file.open("rb") as source:
                while data := source.read(piece):
                    self.wfile.write(data)
                    time.sleep(len(data) / rate)

        def _head(self) -> Path | None:
            file = folder / self.path.lstrip("/")
            if ".." in self.path or not file.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            self.send_response(200)
            self.send_header("Content-Length", str(file.stat().st_size))
            self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
            self.end_headers()
            return file

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowFiles)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
