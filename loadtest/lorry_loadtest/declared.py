"""What a run means to send, in the words in which it is judged."""

from __future__ import annotations

from dataclasses import replace

from lorry_loadtest.arrivals import Arrivals
from lorry_loadtest.engine import Engine
from lorry_loadtest.prompts import SharedPrefix
from lorry_loadtest.run_facts import DeclaredLoad


def declared_load(engine: Engine, *, until_s: float) -> DeclaredLoad:
    """Of an open loop's plan for `until_s` seconds, or of a closed loop."""
    settings, workload = engine.settings, engine.workload
    mix = workload.adapters
    churns = mix.churn is not None
    common = DeclaredLoad(
        # what rotates has no share to be held to
        adapter_shares={} if churns else {name: mix.share_of(name) for name in mix.all_names},
        cached_share=_cached_share(engine),
        exact_lengths=engine.wire.ignore_eos,
    )
    if settings.arrival is None:
        return common
    rate = len(engine.schedule(until_s=until_s)) / until_s
    if not isinstance(settings.arrival, Arrivals):
        return replace(common, arrival="trace", rate_per_s=rate)
    stretches = settings.arrival.rates.stretches
    is_steady = len(stretches) == 1 and stretches[0].start == stretches[0].end
    cv = {"constant": 0.0, "poisson": 1.0, "gamma": settings.arrival.cv}[settings.arrival.process]
    return replace(
        common,
        arrival=settings.arrival.process if is_steady else "shape",
        rate_per_s=rate,
        arrival_cv=cv if is_steady else None,
    )


def _cached_share(engine: Engine) -> float:
    """The share of prompt words that a prefix cache may find, once each prefix was sent."""
    prompts = engine.workload.prompts
    if not isinstance(prompts, SharedPrefix):
        return 0.0
    unique = (prompts.unique.low + prompts.unique.high) / 2
    return prompts.prefix / (prompts.prefix + unique)
