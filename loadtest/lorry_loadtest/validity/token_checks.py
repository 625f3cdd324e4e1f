"""Checks of the counts: tokens that came, were asked for, were cached and were sent."""

from __future__ import annotations

from collections import Counter

from lorry_loadtest import metrics
from lorry_loadtest.server_counters import OUTPUT_TOKENS, growth
from lorry_loadtest.statistics.quantiles import quantile
from lorry_loadtest.validity.finding import Evidence, Finding, judged, unknown


def token_accounting(evidence: Evidence) -> Finding:
    """6: usage, the sum over events and the growth of the server's counter are the same number.

    Events are compared where the server said how many tokens each had, and the counter when every
    attempt succeeded, since what a server generated for a client that left is not told to anybody.
    """
    limit = "usage = sum over events = growth of the server's counter, exactly"
    attempts = evidence.run.measured
    told = [r for r in attempts if r.outcome == "ok" and r.usage_completion is not None]
    stated = [record for record in told if record.tokens_stated]
    wrong = sum(1 for record in stated if metrics.tokens_disagree(record))
    if wrong:
        text = f"{wrong} of {len(told)} answers: usage is not what came"
        return Finding(status="fail", value=text, limit=limit)
    usage = sum(record.usage_completion or 0 for record in told)
    if not told:
        return unknown("the server sends no usage", limit=limit)
    counter = growth(
        evidence.facts.observations.server,
        OUTPUT_TOKENS,
        start_ns=min(record.t_sched_ns for record in attempts),
        end_ns=max(record.t_end_ns for record in attempts),
    )
    if counter is None or len(told) < len(attempts):
        text = f"{usage:,} tokens; the server's counter was not compared"
        if not stated:
            return unknown(f"{text}, and it states no tokens of events", limit=limit)
        return Finding(status="pass", value=text, limit=limit)
    text = f"usage {usage:,}, counter {counter:,.0f}"
    return judged(abs(counter - usage), warn=0, fail=0, text=text, limit=limit)


def length_honoured(evidence: Evidence) -> Finding:
    """7: with exact lengths asked for, how many answers are shorter or longer."""
    limit = "with exact lengths asked for, at most 2 % of answers differ"
    finished = [record for record in evidence.run.cohort if record.outcome == "ok"]
    if not finished:
        return unknown("no answer", limit=limit)
    if not evidence.facts.declared.exact_lengths:
        reasons = Counter(record.finish_reason for record in finished)
        told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        text = f"lengths are the model's own: {told}"
        return Finding(status="pass", value=text, limit=limit)
    differ = sum(1 for record in finished if record.completion_tokens != record.max_tokens)
    share = differ / len(finished)
    return judged(share, warn=0.0, fail=0.02, text=f"{share:.1%} differ", limit=limit)


def prefix_cache(evidence: Evidence) -> Finding:
    """8: the share of prompt tokens from the cache against the share that was meant to be.

    More than was meant makes TTFT too good. Less is no lie, but it is not the load that was meant:
    a cache that is off, cold or too small.
    """
    declared = evidence.facts.declared.cached_share
    limit = f"cached share at most 5 points above the declared {declared:.0%}, and not 25 below"
    share = evidence.summary.cached_prompt_share
    if share is None:
        hashes = [record.prompt_hash for record in evidence.run.cohort if record.prompt_hash]
        if not hashes:
            return unknown("neither cached tokens nor prompts are known", limit=limit)
        share = 1.0 - len(set(hashes)) / len(hashes)
        text = f"{share:.1%} of prompts are repeated"
    else:
        text = f"{share:.1%} of prompt tokens were cached"
        if share < declared - 0.25:
            return Finding(status="warn", value=text, limit=limit)
    return judged(share - declared, warn=0.05, fail=0.25, text=text, limit=limit)


def prompt_drift(evidence: Evidence) -> Finding:
    """26: the median of prompt tokens over planned ones; templates and double BOS add to it."""
    limit = "median within 25 % or 64 tokens of the plan"
    if not evidence.facts.declared.counts_tokens:
        return unknown("the length of given texts is counted in words", limit=limit)
    pairs = sorted(
        (record.usage_prompt - record.prompt_tokens_planned, record.prompt_tokens_planned)
        for record in evidence.run.cohort
        if record.usage_prompt is not None and record.prompt_tokens_planned > 0
    )
    if not pairs:
        return unknown("no prompt count", limit=limit)
    ratios = sorted(abs(extra) / planned for extra, planned in pairs)
    extras = sorted(abs(extra) for extra, _ in pairs)
    ratio, extra = quantile(ratios, 0.5), quantile(extras, 0.5)
    text = f"{ratio:.0%} off, {extra:.0f} tokens"
    if extra <= 64:
        return Finding(status="pass", value=text, limit=limit)
    return judged(ratio, warn=0.25, fail=1.0, text=text, limit=limit)
