"""Asks a server for its cheapest answer at a fixed pace, and prints how long each took.

    lag_probe.py HOST PORT PATH SECONDS INTERVAL_MS

A process of its own with a blocking socket, so that nothing but the server and the machine can
hold an answer up. A question that is due while the last answer is still missing counts from the
moment that it was due. Prints a JSON list of milliseconds.
"""

from __future__ import annotations

import json
import socket
import sys
import time


def main() -> None:
    host, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    seconds, interval_s = float(sys.argv[4]), float(sys.argv[5]) / 1000
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    latencies_ms = []
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started_s = due_s = time.perf_counter()
        while due_s < started_s + seconds:
            time.sleep(max(0.0, due_s - time.perf_counter()))
            connection.sendall(request)
            _read_answer(connection)
            latencies_ms.append(1e3 * (time.perf_counter() - due_s))
            due_s += interval_s
    print(json.dumps(latencies_ms))


def _read_answer(connection: socket.socket) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _receive(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    if b" 200 " not in lines[0] + b" ":
        raise SystemExit(f"the server answered {lines[0]!r}")
    length = next((int(x[15:]) for x in lines if x.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += _receive(connection)


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise SystemExit("the server closed the connection")
    return data


if __name__ == "__main__":
    main()
