"""`AdapterInfo` as `/v1/adapters` shows it."""

from __future__ import annotations

from dataclasses import asdict

from lorry.types.adapters import AdapterCard, LoadTimes
from lorry_server.adapters.info import AdapterInfo


def adapter_card(info: AdapterInfo) -> AdapterCard:
    facts = info.facts
    card = AdapterCard(
        id=info.name,
        source=info.source,
        state=info.state,
        pinned=info.is_pinned,
        requests_in_flight=info.requests_in_flight,
        versions=list(info.versions),
        error=info.error,
    )
    if facts is None:
        return card
    return AdapterCard(
        id=card.id,
        source=card.source,
        state=card.state,
        digest=facts.digest,
        tier=info.tier,
        pinned=card.pinned,
        num_bytes=facts.num_bytes,
        rank=facts.rank,
        alpha=facts.alpha,
        target_modules=list(facts.target_modules),
        features=list(facts.features),
        requests_in_flight=card.requests_in_flight,
        versions=card.versions,
        load_ms=None if info.times is None else LoadTimes(**asdict(info.times)),
        unmatched_tensors=list(facts.unmatched_tensors),
        doctor=None if facts.doctor is None else dict(facts.doctor),
        contract=None if facts.contract is None else facts.contract.card(),
        error=card.error,
    )
