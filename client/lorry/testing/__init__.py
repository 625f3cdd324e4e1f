"""A server without a model, for tests of programs that use lorry: `FakeServer`."""

from __future__ import annotations

from lorry.testing.fake_server import Answer, FakeServer, Refusal
from lorry.testing.scripted_server import ReceivedRequest, Reply, ScriptedServer

__all__ = ["Answer", "FakeServer", "ReceivedRequest", "Refusal", "Reply", "ScriptedServer"]
