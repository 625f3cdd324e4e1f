"""Our HTTP layer on a free port over a `FakeEngine`, for clients that others have written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache

from lorry_server.engine.client import RequestStream
from lorry_server.engine.request import Request
from lorry_server.errors import QueueFullError
from lorry_server.http.app import create_app
from lorry_server.http.settings import HttpSettings
from lorry_server.metrics import Metrics
from lorry_server.text.chat_template import ChatTemplate
from lorry_server.text.tokenizer import Tokenizer
from tests.support.chat_templates import CHATML
from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.fake_library import fake_library
from tests.support.live_server import live_server
from tests.support.small_tokenizers import byte_level_tokenizer

MODEL = "tiny/model"
ADAPTER = "pirate"
# with what line-splitting parsers trip over: blank lines, event syntax, Unicode line separators
BASE_TEXT = "the quick brown fox 👋\n\ndata: [DONE]\r\nEND\u2028of\x85it"
ADAPTER_TEXT = "the old captain laughs"
EOS = 2
MAX_MODEL_LEN = 1024


@dataclass(frozen=True, slots=True)
class CompatServer:
    url: str
    engine: CompatEngine
    tokenizer: Tokenizer


class CompatEngine(FakeEngine):
    """Says `BASE_TEXT`, or `ADAPTER_TEXT` with the adapter; may be full for a number of calls."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._answers = {
            None: tokenizer.encode_plain(BASE_TEXT),
            f"digest-of-{ADAPTER}": tokenizer.encode_plain(ADAPTER_TEXT),
        }
        info = fake_info(model_id=MODEL, max_model_len=MAX_MODEL_LEN, logits_width=len(tokenizer))
        super().__init__(self._script, info=info, adapters=[ADAPTER])
        self.num_refusals = 0
        self.num_calls = 0

    def submit(self, requests: Sequence[Request]) -> list[RequestStream]:
        self.num_calls += 1
        if self.num_calls <= self.num_refusals:
            raise QueueFullError("as many requests wait as may", retry_after_s=0.001)
        return super().submit(requests)

    def _script(self, request: Request) -> list[int]:
        return self._answers[request.adapter]


@cache
def compat_tokenizer() -> Tokenizer:
    return Tokenizer(byte_level_tokenizer(), eos_token_ids=(EOS,))


@asynccontextmanager
async def compat_server(*, api_keys: tuple[str, ...] = ()) -> AsyncIterator[CompatServer]:
    tokenizer = compat_tokenizer()
    engine = CompatEngine(tokenizer)
    library = fake_library(engine)
    app = create_app(
        engine,
        library=library,
        tokenizer=tokenizer,
        chat_template=ChatTemplate(CHATML),
        settings=HttpSettings(served_model_name=MODEL, api_keys=api_keys),
        metrics=Metrics(engine, library, model_name=MODEL),
    )
    async with live_server(app) as url:
        yield CompatServer(url, engine, tokenizer)
