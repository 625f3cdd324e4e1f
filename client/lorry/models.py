"""`client.models`: what the server serves."""

from __future__ import annotations

from lorry.options import resolve
from lorry.session import Session
from lorry.types.models import ModelCard, ModelList


class Models:
    """The base model and the adapters, as `/v1/models` has them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list(self) -> list[ModelCard]:
        """One card each; an adapter's `parent` is the base model's id."""
        options = resolve({}, timeout=self._session.config.timeout)
        answer = await self._session.fetch("GET", "/v1/models", ModelList, options=options)
        return answer.data
