"""The scripted server of `lorry.testing` under the names that these tests use.

A script is `async def script(request, reply)`; it is called for each request.
"""

from __future__ import annotations

from lorry.testing.payloads import chat_answer, chat_chunk, completion, event, usage_chunk
from lorry.testing.scripted_server import ReceivedRequest, Reply, Script
from lorry.testing.scripted_server import ScriptedServer as FakeLLMServer

__all__ = [
    "FakeLLMServer",
    "ReceivedRequest",
    "Reply",
    "Script",
    "chat_answer",
    "chat_chunk",
    "completion",
    "event",
    "usage_chunk",
]
