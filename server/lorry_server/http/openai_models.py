"""`GET /v1/models`: the base model and a card for each adapter."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from lorry.types.models import AdapterDetails, ModelCard, ModelList
from lorry_server.adapters.info import AdapterInfo
from lorry_server.http.adapter_choice import is_base_model, unknown_model
from lorry_server.http.json_response import json_response
from lorry_server.http.serving import Serving


@dataclass(frozen=True, slots=True)
class ModelsEndpoint:
    serving: Serving
    created: int = field(default_factory=lambda: int(time.time()))

    async def list(self, request: Request) -> Response:
        cards = [self._base_card()]
        cards += [self._adapter_card(adapter) for adapter in self.serving.library.list()]
        return json_response(ModelList(data=cards))

    async def retrieve(self, request: Request) -> Response:
        name = request.path_params["model"]
        if is_base_model(name, serving=self.serving):
            return json_response(self._base_card())
        adapter = self.serving.library.find(name)
        if adapter is None:
            raise unknown_model(name, param="model")
        return json_response(self._adapter_card(adapter))

    def _base_card(self) -> ModelCard:
        info = self.serving.engine.info
        return ModelCard(
            id=self.serving.settings.served_model_name,
            created=self.created,
            root=info.model_id,
            max_model_len=info.max_model_len,
        )

    def _adapter_card(self, adapter: AdapterInfo) -> ModelCard:
        """An adapter that no request has asked for yet may be known by its source alone."""
        facts = adapter.facts
        return ModelCard(
            id=adapter.name,
            created=self.created,
            root=adapter.source,
            parent=self.serving.settings.served_model_name,
            max_model_len=self.serving.engine.info.max_model_len,
            description=facts.contract.description if facts and facts.contract else None,
            adapter=None
            if facts is None
            else AdapterDetails(
                rank=facts.rank,
                alpha=facts.alpha,
                target_modules=list(facts.target_modules),
                digest=facts.digest,
                num_bytes=facts.num_bytes,
                defaults=None if facts.contract is None else facts.contract.defaults(),
            ),
        )
