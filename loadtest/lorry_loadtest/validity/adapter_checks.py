"""Checks of the adapters: the mix that was wanted, right answers, and none left behind."""

from __future__ import annotations

from collections import Counter

from lorry_loadtest.statistics.goodness import chi_square_p_value
from lorry_loadtest.validity.finding import Evidence, Finding, judged, unknown

_MIN_EXPECTED = 5.0


def adapter_mix(evidence: Evidence) -> Finding:
    """21: the adapters of the attempts against the wanted shares, by a chi-square test.

    Adapters of which fewer than five draws are expected count together. Requests that share a draw,
    as the turns of a conversation do, count as one (Rao and Scott's first-order correction for
    samples in clusters, 1981).
    """
    limit = "chi-square p > 0.001; no other adapter"
    shares = evidence.facts.declared.adapter_shares
    counts = Counter(record.adapter for record in evidence.run.measured if record.canary is None)
    per_draw = evidence.facts.declared.requests_per_draw
    n = sum(counts.values())
    if not shares or not n:
        return unknown("no shares were declared", limit=limit)
    foreign = [name for name in counts if shares.get(name, 0.0) <= 0.0]
    if foreign:
        text = f"{foreign[0] or 'the base model'} was not asked for"
        return Finding(status="fail", value=text, limit=limit)
    whole = sum(shares.values())
    observed, expected = [], []
    rest_observed, rest_expected = 0.0, 0.0
    for name, share in shares.items():
        wanted = n * share / whole / per_draw
        if wanted >= _MIN_EXPECTED:
            observed.append(counts[name] / per_draw)
            expected.append(wanted)
        else:
            rest_observed += counts[name] / per_draw
            rest_expected += wanted
    if rest_expected > 0:
        observed.append(rest_observed)
        expected.append(rest_expected)
    p = chi_square_p_value(observed, expected)
    loads = sum(adapter.cold_loads for adapter in evidence.summary.adapters)
    text = f"p {p:.3f}, {len(counts)} in use, {loads} cold loads"
    warn, fail = -evidence.chance(0.001), -evidence.chance(0.0001)
    return judged(-p, warn=warn, fail=fail, text=text, limit=limit)


def canaries(evidence: Evidence) -> Finding:
    """22: answers that are known beforehand came back as they should."""
    limit = "every known answer is the right one"
    book = evidence.facts.observations.canaries
    answers = book.answers if book else {}
    unstable = book.unstable if book else ()
    asked = [
        record
        for record in evidence.run.measured
        if record.canary
        and record.canary not in unstable
        and record.outcome in ("ok", "wrong_output")
    ]
    if not asked:
        return unknown("no known answer was asked for", limit=limit)
    wrong = [
        record
        for record in asked
        if record.outcome == "wrong_output"
        or (
            record.text_hash is not None
            and record.text_hash != answers.get(record.canary or "", record.text_hash)
        )
    ]
    names = sorted({record.adapter or "base model" for record in wrong})
    text = f"{len(wrong)} of {len(asked)} wrong" + (f": {', '.join(names[:3])}" if wrong else "")
    return judged(len(wrong), warn=0, fail=0, text=text, limit=limit)


def adapter_fairness(evidence: Evidence) -> Finding:
    """30: the worst adapter against the median one, which a mean over all would hide."""
    limit = "worst TTFT and TPOT < 3 x the median adapter's; Jain's index of speed > 0.8"
    fairness = evidence.summary.fairness
    if fairness is None:
        return unknown("fewer than two adapters with twenty requests", limit=limit)
    ttft, tpot = fairness.ttft_worst_to_median or 1.0, fairness.tpot_worst_to_median or 1.0
    jain = 1.0 if fairness.jain_speed is None else fairness.jain_speed
    text = f"TTFT x{ttft:.1f}, TPOT x{tpot:.1f}, Jain {jain:.2f}"
    worst = max(ttft / 3.0, tpot / 3.0, 0.8 / jain)
    return judged(worst, warn=1.0, fail=float("inf"), text=text, limit=limit)
