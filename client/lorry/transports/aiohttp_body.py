"""A large request body: written piece by piece, as fast as the server takes it."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import StreamWriter

PIECE_BYTES = 2**18


def write_in_pieces(connection: Connection, protocol: ResponseHandler, body: bytes) -> None:
    """Begin to write it, beside what reads the answer: a server may answer before it has read all.

    So no more than a few pieces wait in memory, and under TLS no more than one is encrypted at a
    time. When the connection is given up or back, the writing ends; a connection that it had not
    come to an end on is closed, for the next request would stand behind the rest of this one.
    """
    writing = asyncio.get_running_loop().create_task(_write(protocol, body))
    connection.add_callback(partial(_end, writing, protocol))


async def _write(protocol: ResponseHandler, body: bytes) -> None:
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    whole = memoryview(body)
    # who reads the answer is told of the end of the connection
    with contextlib.suppress(aiohttp.ClientError, OSError):
        for start in range(0, len(body), PIECE_BYTES):
            await writer.write(whole[start : start + PIECE_BYTES])


def _end(writing: asyncio.Task[None], protocol: ResponseHandler) -> None:
    if writing.done():
        return
    writing.cancel()
    if protocol.transport is not None:
        protocol.transport.abort()
    # until the loop has closed it, this is what keeps it from being used again
    protocol.set_exception(aiohttp.ClientConnectionError("its request was not written to its end"))
