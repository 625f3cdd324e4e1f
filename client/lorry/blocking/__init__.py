"""A small blocking client on the same core as `AsyncClient`, for scripts, threads and gevent."""

from lorry.blocking.client import Client
from lorry.blocking.stream import BlockingTokenStream

__all__ = ["BlockingTokenStream", "Client"]
