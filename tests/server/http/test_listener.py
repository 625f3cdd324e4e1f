from __future__ import annotations

import asyncio
import socket

import pytest

from lorry_server.errors import StartupError
from lorry_server.http.listener import listen


async def test_small_pieces_of_an_answer_are_sent_at_once():
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    server = await asyncio.start_server(serve, sock=listen("127.0.0.1", 0))
    async with server:
        host, port = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(host, port)
        no_delay = await accepted
        writer.close()

    assert no_delay != 0


def test_a_taken_port_is_an_error_that_names_it():
    with listen("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]

        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            listen("127.0.0.1", port)
