"""What a run means to send, in the words in which it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lorry_loadtest.arrivals import Arrivals
from lorry_loadtest.engine import Engine
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.prompts import FixedPrompts, MultiTurn, PromptSource, RandomWords, SharedPrefix
from lorry_loadtest.run_facts import DeclaredLoad
from lorry_loadtest.traces import MOONCAKE_BLOCK_TOKENS, Trace
from lorry_loadtest.workload import Workload


def declared_load(engine: Engine, *, until_s: float) -> DeclaredLoad:
    """Of an open loop's plan for `until_s` seconds, or of a closed loop."""
    settings, workload = engine.settings, engine.workload
    mix = workload.adapters
    common = DeclaredLoad(
        adapter_shares={}
        if _draws_unevenly(workload)
        else {name: mix.share_of(name) for name in mix.all_names},
        requests_per_draw=max((_turns(prompts) for prompts in _sources(workload)), default=1),
        cached_share=_cached_share(workload),
        exact_lengths=engine.wire.ignore_eos,
        counts_tokens=not any(isinstance(p, FixedPrompts) for p in _sources(workload)),
    )
    if settings.arrival is None:
        return common
    arrivals = settings.arrival.times_s(seed=workload.arrival_seed, until_s=until_s)
    rate = sum(1 for _ in arrivals) / until_s
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


def declared_together(classes: Sequence[DeclaredLoad]) -> DeclaredLoad:
    """Of several user classes at once, all closed or all open: as much as is true of their sum."""
    kinds = {declared.arrival for declared in classes}
    if len(kinds) == 1:
        (arrival,) = kinds
    else:
        arrival = "shape" if kinds & {"shape", "trace"} else "mixed"
    rates = [declared.rate_per_s for declared in classes if declared.rate_per_s is not None]
    return DeclaredLoad(arrival=arrival, rate_per_s=sum(rates) if rates else None)


def _draws_unevenly(workload: Workload) -> bool:
    """Whether shares say nothing of a sample: what rotates has none to be held to, and requests of
    one session of a trace are as many as their user sent."""
    sessions = workload.trace.requests if workload.trace is not None else ()
    return workload.adapters.churn is not None or any(r.session is not None for r in sessions)


def _turns(prompts: PromptSource) -> int:
    return prompts.turns if isinstance(prompts, MultiTurn) else 1


def _sources(workload: Workload) -> list[PromptSource]:
    if workload.trace is not None:
        return []
    return [variant.prompts for variant in workload.variants] or [workload.prompts]


def _cached_share(workload: Workload) -> float:
    """The largest share of prompt words that a prefix cache may find when it loses nothing.

    Canaries are asked again and again by design.
    """
    if workload.trace is not None:
        cached, whole = _repeated_blocks(workload.trace)
    else:
        kinds = [(v.share, v.prompts) for v in workload.variants] or [(1.0, workload.prompts)]
        words = [(share, *_cached_words(prompts)) for share, prompts in kinds]
        cached = sum(share * found for share, found, _ in words)
        whole = sum(share * length for share, _, length in words)
    share = cached / whole if whole else 0.0
    return 1.0 - (1.0 - share) * (1.0 - workload.canary_share * bool(workload.canaries))


def _cached_words(prompts: PromptSource) -> tuple[float, float]:
    """Of a mean request: words that were sent before, and all words."""
    match prompts:
        case SharedPrefix(prefix=prefix, unique=unique):
            return prefix, prefix + _mean(unique)
        case MultiTurn(turns=turns, words_per_turn=own, words_per_answer=answer):
            history = (turns - 1) / 2 * (_mean(own) + answer)
            return history, history + _mean(own)
        case FixedPrompts(texts=texts):
            length = sum(len(text.split()) for text in texts) / len(texts)
            return length, length
        case RandomWords(num_words=own):
            return 0.0, _mean(own)


def _mean(lengths: Lengths) -> float:
    return lengths.mean if lengths.spread != "uniform" else (lengths.low + lengths.high) / 2


def _repeated_blocks(trace: Trace) -> tuple[float, float]:
    """Tokens of blocks that an earlier request had, and all."""
    seen: set[int] = set()
    cached = whole = 0
    for request in trace.requests:
        whole += request.num_prompt_tokens
        left = request.num_prompt_tokens
        for block in request.block_ids:
            cached += min(left, MOONCAKE_BLOCK_TOKENS) if block in seen else 0
            left = max(0, left - MOONCAKE_BLOCK_TOKENS)
        seen.update(request.block_ids)
    return cached, whole
