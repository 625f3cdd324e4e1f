"""`Serving`: the collaborators that every endpoint is given."""

from __future__ import annotations

from dataclasses import dataclass

from lorry_server.adapters.library import AdapterLibrary
from lorry_server.engine.client import EngineClient
from lorry_server.http.settings import HttpSettings
from lorry_server.metrics import Metrics
from lorry_server.text.chat_template import ChatTemplate
from lorry_server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One model being served. `chat_template` is None when the model has none."""

    engine: EngineClient
    library: AdapterLibrary
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    settings: HttpSettings
    metrics: Metrics
